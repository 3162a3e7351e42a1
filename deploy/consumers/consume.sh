#!/bin/sh
# Prints each denied connection once: id, verdict, who, to where, which policies isolate. Needs kcat and jq.
# usage: consume.sh BROKERS TOPIC GROUP
#
# kcat commits what it has read, whether jq has printed it or not: good for looking, not for keeping.
set -eu
exec 3<<'JQ'
def ends: if .pod_name then "\(.namespace)/\(.pod_name)" else .node_name // .instance // "?" end;
# Keeps the last numbers per ring and pod, and the highest forgotten one. A pod's numbers rise, but one that a broker
# refused at first comes after later ones.
foreach inputs as $flow ({seen: {}};
  (if $flow.connection.direction == "ingress" then $flow.dest else $flow.src end) as $local
  | ($flow.id | capture("^(?<ring>.+)-(?<number>[0-9]+)$")) as $id
  | "\($id.ring)/\($local.pod_uid // $local.pod_name // $local.node_name)" as $subject
  | ($id.number | tonumber) as $number
  | (.seen[$subject] // {numbers: [], forgotten: -1}) as $pod
  | .new = ($number > $pod.forgotten and all($pod.numbers[]; . != $number))
  | if .new then ($pod.numbers + [$number] | sort) as $numbers
    | .seen[$subject] = if $numbers | length > 1000 then {numbers: $numbers[500:], forgotten: $numbers[499]}
        else {numbers: $numbers, forgotten: $pod.forgotten} end
    else . end;
  if .new then
    [ $flow.id, $flow.disposition, ($flow.src | ends), "\($flow.dest | ends):\($flow.connection.dest_port // "")",
      ([($flow.isolated_by + $flow.policies)[].name] | join(",")) ] | @tsv
  else empty end)
JQ
kcat -q -u -b "$1" -G "$3" -X auto.offset.reset=earliest -X session.timeout.ms=6000 "$2" |
  jq --unbuffered -n -r -f /dev/fd/3
