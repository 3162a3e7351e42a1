// The time slider: how much was decided in each step of the map's time, and the steps that are shown.

import { byId } from "./dom.js";
import { isUtc, minute, utcMinute } from "./times.js";

export function startSpan(changed) {
  const canvas = byId("volume");
  const [from, to] = [byId("from"), byId("to")];
  let answer = null;
  let totals = [];

  const times = () => [answer.begins_s + from.valueAsNumber * answer.step_s, answer.begins_s + (to.valueAsNumber + 1) * answer.step_s];
  const text = () => {
    const [begin, end] = times();
    return isUtc ? `${utcMinute(begin)} to ${utcMinute(end)} UTC` : `${minute(begin)} to ${minute(end)} (${utcMinute(begin)} to ${utcMinute(end)} UTC)`;
  };
  const draw = () => {
    if (!answer || !canvas.clientWidth) return;
    const ratio = devicePixelRatio || 1;
    [canvas.width, canvas.height] = [canvas.clientWidth * ratio, canvas.clientHeight * ratio];
    const on = canvas.getContext("2d");
    on.scale(ratio, ratio);
    const style = getComputedStyle(document.documentElement);
    const [width, height] = [canvas.clientWidth / totals.length, canvas.clientHeight];
    const most = [Math.max(1, ...totals.map((one) => one.bad)), Math.max(1, ...totals.map((one) => one.good))];
    totals.forEach((one, step) => {
      const isIn = step >= from.valueAsNumber && step <= to.valueAsNumber;
      on.globalAlpha = isIn ? 1 : 0.25;
      const [bad, good] = [(one.bad / most[0]) * height * 0.38, (one.good / most[1]) * height * 0.55];
      on.fillStyle = style.getPropertyValue("--allow");
      on.fillRect(step * width + 0.5, height - good, Math.max(1, width - 1), good);
      on.fillStyle = style.getPropertyValue("--deny");
      on.fillRect(step * width + 0.5, height * 0.42 - bad, Math.max(1, width - 1), bad);
    });
  };
  const tell = () => {
    byId("span-text").textContent = text();
    const [begin, end] = times();
    from.setAttribute("aria-valuetext", minute(begin));
    to.setAttribute("aria-valuetext", minute(end));
    draw();
  };
  const moved = (own, other, isWrong) => {
    if (isWrong()) other.value = own.value;
    tell();
    changed();
  };
  from.addEventListener("input", () => moved(from, to, () => from.valueAsNumber > to.valueAsNumber));
  to.addEventListener("input", () => moved(to, from, () => to.valueAsNumber < from.valueAsNumber));
  new ResizeObserver(draw).observe(canvas);

  return {
    redraw: draw,
    text,
    times,
    get steps() {
      return { from: from.valueAsNumber, to: to.valueAsNumber };
    },
    get isWhole() {
      return from.valueAsNumber === 0 && to.valueAsNumber === answer.steps - 1;
    },
    /** Take an answer, and show what is between two times of it; all of it without them. */
    take: (given, begin, end) => {
      answer = given;
      totals = Array.from({ length: answer.steps }, () => ({ bad: 0, good: 0 }));
      for (const [, , counts] of answer.edges) {
        for (const [step, denied, audited, allowed, other] of counts) {
          totals[step].bad += denied + audited;
          totals[step].good += allowed + other;
        }
      }
      const last = answer.steps - 1;
      const stepAt = (seconds, otherwise) => (seconds ? Math.max(0, Math.min(last, Math.floor((seconds - answer.begins_s) / answer.step_s))) : otherwise);
      from.max = to.max = String(last);
      from.value = String(stepAt(begin, 0));
      to.value = String(Math.max(from.valueAsNumber, stepAt(end && end - 1, last)));
      from.disabled = to.disabled = last === 0;
      tell();
    },
  };
}
