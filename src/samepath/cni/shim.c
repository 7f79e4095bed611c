/* samepath-cni: the program that a container runtime calls.
 *
 * It hands the CNI_ variables and standard input to the agent's socket, prints what the agent
 * answers and exits with the status that the agent names; wire.py has the framing. It answers
 * VERSION itself, and when the agent is away it says so with the specification's error object.
 * It opens CNI_NETNS for the agent, since that path may exist in the runtime's mount namespace only.
 *
 * shim.py does the same in Python, word for word; tests/cni/test_cni_shim.py holds both to it.
 * Built static and without stdio, since each pod's start waits for it: hatch_build.py.
 *
 * Not done here: any judgement of the request. Of the configuration only the top-level strings
 * `cniVersion` (to echo it) and `socket` are read; where it is not JSON the agent will say so.
 *
 * Standards: CNI 1.1.0; RFC 8259 (JSON); unix(7).
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stddef.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "shim_answer.h"
#include "shim_json.h"

#define NEWEST "1.1.0"
#define SUPPORTED "[\"0.3.1\",\"0.4.0\",\"1.0.0\",\"1.1.0\"]"
#define SOCKET "/run/samepath/cni.sock"
#define MAGIC "samepath-cni 1 "

enum {
	STDIN_LIMIT = 1 << 20,
	ENVIRONMENT_LIMIT = 256 << 10,
	ANSWER_LIMIT = 1 << 20,
	ANSWER_HEADER = 16, /* "255 1048576\n" */
	TIMEOUT_S = 60,
};

extern char **environ;

static unsigned char input[STDIN_LIMIT + 1];
static unsigned char environment[ENVIRONMENT_LIMIT + 64];
static unsigned char answer[ANSWER_HEADER + ANSWER_LIMIT];
static int status_asked;

/* The request. */

static long read_input(void)
{
	size_t have = 0;

	while (have < sizeof input) {
		ssize_t n = read(0, input + have, sizeof input - have);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -1;
		if (!n)
			break;
		have += n;
	}
	return have;
}

static size_t add_variable(size_t have, const char *entry)
{
	size_t octets = strlen(entry) + 1;

	if (octets > ENVIRONMENT_LIMIT - have)
		fail(INVALID_ENVIRONMENT, "the variables CNI_* have more than 262144 octets together",
		     NULL, -1);
	memcpy(environment + have, entry, octets);
	return have + octets;
}

/* The variables CNI_*, each once; the first counts, as for getenv. */
static size_t collect_environment(void)
{
	size_t have = 0;

	for (char **entry = environ; *entry; entry++) {
		const char *equals = strchr(*entry, '=');
		char **earlier = environ;

		if (!equals || strncmp(*entry, "CNI_", 4))
			continue;
		while (strncmp(*earlier, *entry, equals - *entry + 1))
			earlier++;
		if (earlier == entry)
			have = add_variable(have, *entry);
	}
	return have;
}

static const char *variable(const char *name)
{
	size_t octets = strlen(name);

	for (char **entry = environ; *entry; entry++)
		if (!strncmp(*entry, name, octets) && (*entry)[octets] == '=')
			return *entry + octets + 1;
	return "";
}

/* A descriptor of CNI_NETNS, or -1; then the agent is told why. */
static int open_netns(size_t *environment_octets)
{
	const char *path = variable("CNI_NETNS");
	int fd;

	if (!*path)
		return -1;
	/* O_NONBLOCK: of a FIFO, which it should not be, the opening would wait. */
	fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (fd < 0) {
		size_t octets;

		out_octets = 0;
		say("SAMEPATH_NETNS_ERRNO=");
		say_number(errno);
		put("", 1);
		octets = out_octets;
		out_octets = 0;
		memcpy(environment + *environment_octets, out, octets);
		*environment_octets += octets;
	}
	return fd;
}

static long timeout_s(void)
{
	const char *text = variable("SAMEPATH_CNI_TIMEOUT_S");
	long seconds = 0;

	for (size_t i = 0; text[i]; i++) {
		if (text[i] < '0' || text[i] > '9' || i == 3)
			return TIMEOUT_S;
		seconds = seconds * 10 + text[i] - '0';
	}
	return seconds && seconds <= 600 ? seconds : TIMEOUT_S;
}

/* The conversation. */

static struct sockaddr_un agent = {.sun_family = AF_UNIX, .sun_path = SOCKET};
static struct timespec deadline;
static long timeout;

static _Noreturn void away(enum code code, const char *before, const char *after,
			   const char *details, long number)
{
	begin_error(status_asked ? NOT_AVAILABLE : code);
	say("Samepath's agent cannot be asked: ");
	say(before);
	say_escaped((unsigned char *)agent.sun_path, strlen(agent.sun_path));
	say(after);
	end_error(details, number);
}

#define REMEDY "; start the agent on this node, or correct 'socket' in the network configuration"

static _Noreturn void too_late(void)
{
	away(TRY_AGAIN_LATER, "no answer in time from ", "; see in the agent's log what keeps it busy",
	     "seconds waited: ", timeout);
}

static _Noreturn void closed(const char *details)
{
	away(TRY_AGAIN_LATER, "the connection to ",
	     " was closed without an answer; the agent may be starting anew, see its log", details, -1);
}

/* Sets what is left of the time on the socket, for the next call. */
static void set_timeout(int fd, int option)
{
	struct timespec now;
	struct timeval left;

	clock_gettime(CLOCK_MONOTONIC, &now);
	left.tv_sec = deadline.tv_sec - now.tv_sec;
	left.tv_usec = (deadline.tv_nsec - now.tv_nsec) / 1000;
	if (left.tv_usec < 0) {
		left.tv_usec += 1000000;
		left.tv_sec--;
	}
	if (left.tv_sec < 0 || (!left.tv_sec && left.tv_usec < 1))
		too_late();
	setsockopt(fd, SOL_SOCKET, option, &left, sizeof left);
}

static void aim(struct text path)
{
	long octets = unescape(path, (unsigned char *)agent.sun_path, sizeof agent.sun_path - 1);

	if (octets < 1 || agent.sun_path[0] != '/' || memchr(agent.sun_path, 0, octets))
		fail(INVALID_CONFIG,
		     "socket: it must be an absolute path of at most 107 octets; correct it in the "
		     "network configuration, or leave it out",
		     NULL, -1);
	agent.sun_path[octets] = 0;
}

static _Noreturn void not_connected(int error)
{
	if (error == EAGAIN)
		too_late();
	if (error == ENOENT)
		away(TRY_AGAIN_LATER, "there is no socket ", REMEDY, "connect: ENOENT", -1);
	if (error == ECONNREFUSED)
		away(TRY_AGAIN_LATER, "nothing listens at ", REMEDY, "connect: ECONNREFUSED", -1);
	away(TRY_AGAIN_LATER, "no connection to ", REMEDY, "connect: errno ", error);
}

/* A connection to what root listens at. */
static int connect_agent(void)
{
	struct ucred peer = {.uid = -1};
	socklen_t size = sizeof peer;
	int failed, fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0)
		not_connected(errno);
	do {
		set_timeout(fd, SO_SNDTIMEO);
		failed = connect(fd, (struct sockaddr *)&agent, sizeof agent);
	} while (failed && errno == EINTR);
	if (failed)
		not_connected(errno);
	getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size);
	if (peer.uid)
		away(AGENT_NOT_TRUSTED, "the program that listens at ",
		     " does not run as root; stop it, and start the agent as root", "uid ", peer.uid);
	return fd;
}

static void advance(struct msghdr *message, size_t sent)
{
	while (message->msg_iovlen && sent >= message->msg_iov->iov_len) {
		sent -= message->msg_iov->iov_len;
		message->msg_iov++;
		message->msg_iovlen--;
	}
	if (message->msg_iovlen) {
		message->msg_iov->iov_base = (char *)message->msg_iov->iov_base + sent;
		message->msg_iov->iov_len -= sent;
	}
}

/* The request, with the descriptor at its first octet. What the agent does not want to read it
 * may refuse in the middle: its answer is read all the same. */
static void send_request(int fd, struct iovec parts[3], int netns)
{
	union {
		struct cmsghdr header;
		char room[CMSG_SPACE(sizeof netns)];
	} control = {.room = {0}};
	struct msghdr message = {.msg_iov = parts, .msg_iovlen = 3};

	if (netns >= 0) {
		control.header.cmsg_len = CMSG_LEN(sizeof netns);
		control.header.cmsg_level = SOL_SOCKET;
		control.header.cmsg_type = SCM_RIGHTS;
		memcpy(CMSG_DATA(&control.header), &netns, sizeof netns);
		message.msg_control = &control;
		message.msg_controllen = sizeof control.room;
	}
	while (message.msg_iovlen) {
		ssize_t n;

		set_timeout(fd, SO_SNDTIMEO);
		n = sendmsg(fd, &message, MSG_NOSIGNAL);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN)
			too_late();
		if (n < 0)
			return;
		message.msg_control = NULL;
		message.msg_controllen = 0;
		advance(&message, n);
	}
}

/* A decimal number of at most `room` digits, and what must follow it; NULL: it is none. */
static const unsigned char *announced(const unsigned char *p, const unsigned char *end, int room,
				      unsigned char then, size_t *value)
{
	const unsigned char *from = p;

	for (*value = 0; p < end && *p >= '0' && *p <= '9' && p - from < room; p++)
		*value = *value * 10 + *p - '0';
	return p > from && p < end && *p == then ? p + 1 : NULL;
}

static _Noreturn void print_answer(int fd)
{
	size_t have = 0, status, octets;
	const unsigned char *p, *end, *header_end = NULL;

	for (;;) {
		ssize_t n;

		set_timeout(fd, SO_RCVTIMEO);
		n = recv(fd, answer + have, sizeof answer - have, 0);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN)
			too_late();
		if (n <= 0)
			closed(have ? "the answer broke off" : "no answer at all");
		have += n;
		header_end = memchr(answer, '\n', have < ANSWER_HEADER ? have : ANSWER_HEADER);
		if (!header_end && have < ANSWER_HEADER)
			continue;
		end = answer + have;
		if (!header_end || !(p = announced(answer, end, 3, ' ', &status)) ||
		    !(p = announced(p, end, 7, '\n', &octets)) || status > 255 ||
		    octets > ANSWER_LIMIT)
			away(AGENT_NOT_UNDERSTOOD, "what answered at ",
			     " is no agent of this version; bring agent and plugin to the same version", NULL, -1);
		if ((size_t)(end - p) >= octets)
			finish(p, octets, status);
	}
}

static size_t write_header(size_t environment_octets, size_t stdin_octets)
{
	out_octets = 0;
	say(MAGIC);
	say_number(environment_octets);
	say(" ");
	say_number(stdin_octets);
	say("\n");
	return out_octets;
}

static void ask(size_t environment_octets, size_t stdin_octets)
{
	static unsigned char header[64];
	int netns = open_netns(&environment_octets), fd;
	struct iovec parts[3] = {
		{header, write_header(environment_octets, stdin_octets)},
		{environment, environment_octets},
		{input, stdin_octets},
	};

	memcpy(header, out, out_octets);
	out_octets = 0;
	timeout = timeout_s();
	clock_gettime(CLOCK_MONOTONIC, &deadline);
	deadline.tv_sec += timeout;
	fd = connect_agent();
	send_request(fd, parts, netns);
	print_answer(fd);
}

static _Noreturn void answer_version(int known)
{
	say("{\"cniVersion\":\"");
	if (known)
		say_escaped(version, version_octets);
	else
		say(NEWEST);
	say("\",\"supportedVersions\":" SUPPORTED "}");
	finish(out, out_octets, 0);
}

int main(void)
{
	const char *command = variable("CNI_COMMAND");
	struct text found[FIELDS] = {{0}};
	int asks_version = !strcmp(command, "VERSION"), known = 0;
	long octets;

	if (fcntl(1, F_GETFD) < 0)
		return 1; /* else the agent's socket would become standard output */
	signal(SIGPIPE, SIG_IGN);
	status_asked = !strcmp(command, "STATUS");
	if (!*command)
		fail(INVALID_ENVIRONMENT,
		     "CNI_COMMAND is not set: a container runtime calls this program, with the "
		     "variables of the CNI specification",
		     NULL, -1);
	octets = read_input();
	if (octets < 0 && !asks_version)
		fail(IO_FAILURE, "standard input cannot be read: the container runtime has to send "
				 "the network configuration", "errno ", errno);
	if (octets > STDIN_LIMIT)
		fail(INVALID_CONFIG, "the network configuration has more than 1048576 octets", NULL,
		     -1);
	if (octets > 0 && !scan(input, input + octets, found))
		memset(found, 0, sizeof found); /* no JSON: the agent says so */
	if (found[VERSION_FIELD].at) {
		unsigned char said[VERSION_OCTETS];
		long n = unescape(found[VERSION_FIELD], said, sizeof said);

		known = n > 0;
		if (known) {
			memcpy(version, said, n);
			version_octets = n;
		}
	}
	if (asks_version)
		answer_version(known);
	if (found[SOCKET_FIELD].at)
		aim(found[SOCKET_FIELD]);
	ask(collect_environment(), octets);
	return 1;
}
