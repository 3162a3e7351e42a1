/* SPDX-License-Identifier: Apache-2.0 */
/*
 * weir-cni: the CNI plugin of kubeweir, the last one in the node's chain.
 *
 * A container runtime runs it when a pod's network has been made, before any
 * process of the pod runs. The plugin decides nothing. It hands what it was given
 * to weir-probe, waits, and prints what weir-probe answers:
 *
 *   1. It connects to the probe's Unix socket, and sends the variables CNI_* of its
 *      environment, its standard input, and a descriptor of the pod's network
 *      namespace. The probe cannot open that path itself: it runs in a container
 *      and may not enter namespaces.
 *   2. The probe answers when the pod's interface is under policy: the exit code and
 *      the text for standard output.
 *   3. No probe, or no answer in time: ADD fails with CNI's code 11, "try again
 *      later", and kubelet does so; or, if the configuration says "onFailure": "open",
 *      the pod starts without policy. DEL always succeeds, and soon: the kernel tells
 *      the probe that an interface is gone.
 *
 * VERSION, STATUS and GC do not concern the probe. STATUS succeeds without it,
 * because the runtime would otherwise report the node as not ready, and the probe's
 * own pod might not start.
 *
 * Its settings are in its entry of the node's configuration, which the runtime puts
 * on standard input: "socket", "wait" (seconds) and "onFailure". Nothing else of that
 * JSON is read, except "prevResult" for "open".
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

/* kubeweir's, which `weir-cni --version` prints; that of CNI is in the answer to VERSION. */
#define RELEASE "0.1.0"
#define DEFAULT_SOCKET "/run/kubeweir/cni.sock"
#define DEFAULT_WAIT_S 10
#define MAX_WAIT_S 120
#define DELETE_WAIT_MS 2000
#define RETRY_MS 100
#define MAX_BYTES (1 << 20)
#define MAX_HEADER 64
#define GREETING "weir-cni 1\n"

/* Codes of the CNI specification. */
#define ENVIRONMENT 4
#define IO_FAILURE 5
#define TRY_AGAIN_LATER 11

extern char **environ;

struct text {
	const char *at;
	size_t size;
};

static struct text input;
static struct text version = { "1.0.0", 5 };

static long now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static int fail(int code, const char *what, const char *details)
{
	printf("{\"cniVersion\":\"%.*s\",\"code\":%d,\"msg\":\"%s\",\"details\":\"%s\"}\n", (int)version.size,
	       version.at, code, what, details);
	return 1;
}

static size_t skip_space(struct text json, size_t at)
{
	while (at < json.size && strchr(" \t\r\n", json.at[at]) && json.at[at])
		at++;
	return at;
}

/* Return the position behind the string that begins at the quotation mark at `at`, or 0. */
static size_t skip_string(struct text json, size_t at)
{
	for (at++; at < json.size; at++) {
		if (json.at[at] == '\\')
			at++;
		else if (json.at[at] == '"')
			return at + 1;
	}
	return 0;
}

/* Return the position behind the value that begins at `at`, or 0 if it does not end. */
static size_t skip_value(struct text json, size_t at)
{
	size_t start = at;
	int depth = 0;

	while (at < json.size) {
		char c = json.at[at];

		if (c == '"') {
			at = skip_string(json, at);
			if (!at)
				return 0;
			if (!depth)
				return at;
			continue;
		}
		if (!depth && (c == ',' || c == '}' || c == ']' || strchr(" \t\r\n", c)))
			return at > start ? at : 0;
		if (c == '{' || c == '[')
			depth++;
		if ((c == '}' || c == ']') && --depth == 0)
			return at + 1;
		at++;
	}
	return 0;
}

/* Find a key of the outermost object. The runtime writes valid JSON; in other text, no key may be found. */
static int find(const char *key, struct text *value)
{
	size_t at = skip_space(input, 0), length = strlen(key);

	if (at >= input.size || input.at[at] != '{')
		return 0;
	do {
		size_t name = skip_space(input, at + 1), end, from, to;

		if (name >= input.size || input.at[name] != '"')
			return 0;
		end = skip_string(input, name);
		if (!end)
			return 0;
		at = skip_space(input, end);
		if (at >= input.size || input.at[at] != ':')
			return 0;
		from = skip_space(input, at + 1);
		to = skip_value(input, from);
		if (!to)
			return 0;
		if (end - name == length + 2 && !memcmp(input.at + name + 1, key, length)) {
			*value = (struct text){ input.at + from, to - from };
			return 1;
		}
		at = skip_space(input, to);
	} while (at < input.size && input.at[at] == ',');
	return 0;
}

/* Find a string without escapes. It can be printed in JSON as it is. */
static int find_string(const char *key, struct text *value)
{
	if (!find(key, value) || value->size < 2 || *value->at != '"' || memchr(value->at, '\\', value->size))
		return 0;
	value->at++;
	value->size -= 2;
	return 1;
}

/* Wait until the socket is ready, or return -1 at the deadline. */
static int await(int fd, short events, long deadline)
{
	struct pollfd one = { .fd = fd, .events = events };
	long left = deadline - now_ms();
	int ready;

	if (left <= 0)
		return -1;
	do
		ready = poll(&one, 1, (int)left);
	while (ready < 0 && errno == EINTR);
	return ready == 1 ? 0 : -1;
}

static int send_all(int fd, const char *bytes, size_t size, long deadline)
{
	while (size) {
		ssize_t sent;

		if (await(fd, POLLOUT, deadline))
			return -1;
		sent = send(fd, bytes, size, MSG_NOSIGNAL);
		if (sent < 0) {
			if (errno == EAGAIN || errno == EINTR)
				continue;
			return -1;
		}
		bytes += sent;
		size -= (size_t)sent;
	}
	return 0;
}

/* Send the greeting, and with it the descriptor of the network namespace if there is one. */
static int send_greeting(int fd, int netns, long deadline)
{
	union {
		char bytes[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} control = { .bytes = { 0 } };
	struct iovec text = { (void *)GREETING, sizeof(GREETING) - 1 };
	struct msghdr message = { .msg_iov = &text, .msg_iovlen = 1 };

	if (netns >= 0) {
		struct cmsghdr *header;

		message.msg_control = control.bytes;
		message.msg_controllen = sizeof(control.bytes);
		header = CMSG_FIRSTHDR(&message);
		header->cmsg_level = SOL_SOCKET;
		header->cmsg_type = SCM_RIGHTS;
		header->cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(header), &netns, sizeof(int));
	}
	if (await(fd, POLLOUT, deadline))
		return -1;
	return sendmsg(fd, &message, MSG_NOSIGNAL) == (ssize_t)text.iov_len ? 0 : -1;
}

static int send_request(int fd, int netns, long deadline)
{
	if (send_greeting(fd, netns, deadline))
		return -1;
	for (char **variable = environ; *variable; variable++)
		if (!strncmp(*variable, "CNI_", 4) && send_all(fd, *variable, strlen(*variable) + 1, deadline))
			return -1;
	if (send_all(fd, "", 1, deadline) || send_all(fd, input.at, input.size, deadline))
		return -1;
	return shutdown(fd, SHUT_WR);
}

/* Receive until the probe closes the connection. Return the number of bytes, -1 without an answer in time. */
static ssize_t receive(int fd, char *into, size_t room, long deadline)
{
	size_t got = 0;

	while (got < room) {
		ssize_t more;

		if (await(fd, POLLIN, deadline))
			return -1;
		more = recv(fd, into + got, room - got, 0);
		if (more < 0) {
			if (errno == EAGAIN || errno == EINTR)
				continue;
			return -1;
		}
		if (!more)
			return (ssize_t)got;
		got += (size_t)more;
	}
	return -1;
}

/* Print a complete answer, "weir-cni 1 EXIT BYTES\n" and the bytes, and return its exit code; otherwise -1. */
static int print_answer(char *answer, size_t size)
{
	char *body = memchr(answer, '\n', size), *end;
	unsigned long code, length;

	if (!body || strncmp(answer, GREETING, sizeof(GREETING) - 2) || answer[sizeof(GREETING) - 2] != ' ')
		return -1;
	*body++ = 0;
	code = strtoul(answer + sizeof(GREETING) - 1, &end, 10);
	length = strtoul(end, &end, 10);
	if (*end || code > 1 || length != size - (size_t)(body - answer))
		return -1;
	fwrite(body, 1, length, stdout);
	return (int)code;
}

/* Ask the probe once. Return the exit code, or -1 if it is not there or has not answered. */
static int ask(const char *path, int netns, long deadline)
{
	static char answer[MAX_BYTES + MAX_HEADER];
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), code = -1;
	ssize_t size;

	if (fd < 0)
		return -1;
	strncpy(address.sun_path, path, sizeof(address.sun_path) - 1);
	if (!connect(fd, (struct sockaddr *)&address, sizeof(address)) && !send_request(fd, netns, deadline)) {
		size = receive(fd, answer, sizeof(answer) - 1, deadline);
		if (size > 0)
			code = print_answer(answer, (size_t)size);
	}
	close(fd);
	return code;
}

/* Read standard input. Return -1 if it is too large or cannot be read. */
static int read_input(void)
{
	static char bytes[MAX_BYTES + 1];
	size_t size = fread(bytes, 1, sizeof(bytes), stdin);

	if (ferror(stdin) || size > MAX_BYTES)
		return -1;
	input = (struct text){ bytes, size };
	return 0;
}

static long wait_ms(int deleting)
{
	struct text value;
	long seconds = DEFAULT_WAIT_S, limit = deleting ? DELETE_WAIT_MS : MAX_WAIT_S * 1000L;

	/* The text is not terminated, but a number ends at the first other character, and input ends with a brace. */
	if (find("wait", &value) && value.size < 10 && *value.at >= '0' && *value.at <= '9')
		seconds = strtol(value.at, 0, 10);
	return seconds * 1000 < limit ? seconds * 1000 : limit;
}

static int without_answer(const char *command, const char *path)
{
	char details[512];
	struct text value;
	int open = find_string("onFailure", &value) && value.size == 4 && !memcmp(value.at, "open", 4);

	if (!strcmp(command, "DEL") || (open && strcmp(command, "ADD")))
		return 0;
	if (open && find("prevResult", &value)) {
		fwrite(value.at, 1, value.size, stdout);
		return 0;
	}
	snprintf(details, sizeof(details),
		 "no answer on %s: the pod waits until policy can be enforced on its interface. "
		 "Is the pod weir-probe on this node running?",
		 path);
	return fail(TRY_AGAIN_LATER, "weir-probe does not answer", details);
}

int main(int argc, char **argv)
{
	const char *command = getenv("CNI_COMMAND"), *netns_path = getenv("CNI_NETNS");
	char path[sizeof(((struct sockaddr_un *)0)->sun_path)] = DEFAULT_SOCKET;
	struct text value;
	int netns, code, deleting;
	long deadline;

	if (argc > 1 && !strcmp(argv[1], "--version")) {
		puts("weir-cni, version " RELEASE);
		return 0;
	}
	if (!command)
		return fail(ENVIRONMENT, "CNI_COMMAND is not set", "weir-cni is run by container runtimes, not by people");
	if (!strcmp(command, "VERSION")) {
		puts("{\"cniVersion\":\"1.1.0\",\"supportedVersions\":[\"0.3.0\",\"0.3.1\",\"0.4.0\",\"1.0.0\",\"1.1.0\"]}");
		return 0;
	}
	if (!strcmp(command, "STATUS") || !strcmp(command, "GC"))
		return 0;
	deleting = !strcmp(command, "DEL");
	if (!deleting && strcmp(command, "ADD") && strcmp(command, "CHECK"))
		return fail(ENVIRONMENT, "CNI_COMMAND is unknown", "weir-cni knows ADD, DEL, CHECK, GC, STATUS and VERSION");
	if (read_input())
		return deleting ? 0 : fail(IO_FAILURE, "standard input cannot be read", "or it is larger than 1 MiB");
	if (find_string("cniVersion", &value) && value.size < 20)
		version = value;
	if (find_string("socket", &value) && value.size < sizeof(path))
		snprintf(path, sizeof(path), "%.*s", (int)value.size, value.at);
	deadline = now_ms() + wait_ms(deleting);
	netns = netns_path && *netns_path ? open(netns_path, O_RDONLY | O_CLOEXEC) : -1;
	while ((code = ask(path, netns, deadline)) < 0 && !deleting && now_ms() < deadline)
		usleep(RETRY_MS * 1000);
	return code < 0 ? without_answer(command, path) : code;
}
