/* What shim.c prints: answers of its own, and the end of the program with any answer.
 *
 * Text is collected and written at once, so that a runtime never reads half an answer of ours. An
 * error object is begun, filled and ended; ending it ends the program.
 *
 * Standards: CNI 1.1.0, "Error"; RFC 8259 (JSON).
 */
#include <errno.h>
#include <stddef.h>
#include <string.h>
#include <unistd.h>

#define FALLBACK "1.0.0"

enum { VERSION_OCTETS = 64 };

enum code {
	INVALID_ENVIRONMENT = 4,
	IO_FAILURE = 5,
	INVALID_CONFIG = 7,
	TRY_AGAIN_LATER = 11,
	NOT_AVAILABLE = 50,
	AGENT_NOT_TRUSTED = 100,
	AGENT_NOT_UNDERSTOOD = 101,
};

static unsigned char version[VERSION_OCTETS] = FALLBACK; /* that the request was made in */
static size_t version_octets = sizeof FALLBACK - 1;

static unsigned char out[8192];
static size_t out_octets;

static void put(const void *data, size_t octets)
{
	if (octets > sizeof out - out_octets)
		octets = sizeof out - out_octets;
	memcpy(out + out_octets, data, octets);
	out_octets += octets;
}

static void say(const char *text)
{
	put(text, strlen(text));
}

static void say_number(size_t number)
{
	unsigned char digits[20];
	size_t at = sizeof digits;

	do
		digits[--at] = '0' + number % 10;
	while (number /= 10);
	put(digits + at, sizeof digits - at);
}

/* The inside of a JSON string. */
static void say_escaped(const unsigned char *text, size_t octets)
{
	static const char hex[] = "0123456789abcdef";

	for (size_t i = 0; i < octets; i++) {
		unsigned char c = text[i];

		if (c == '"' || c == '\\') {
			put("\\", 1);
			put(&c, 1);
		} else if (c < 0x20) {
			say("\\u00");
			put(&hex[c >> 4], 1);
			put(&hex[c & 15], 1);
		} else {
			put(&c, 1);
		}
	}
}

static _Noreturn void finish(const unsigned char *text, size_t octets, int status)
{
	while (octets) {
		ssize_t n = write(1, text, octets);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			_exit(status ? status : 1);
		text += n;
		octets -= n;
	}
	_exit(status);
}

static void begin_error(enum code code)
{
	say("{\"cniVersion\":\"");
	say_escaped(version, version_octets);
	say("\",\"code\":");
	say_number(code);
	say(",\"msg\":\"");
}

static _Noreturn void end_error(const char *details, long number)
{
	say("\"");
	if (details) {
		say(",\"details\":\"");
		say(details);
		if (number >= 0)
			say_number(number);
		say("\"");
	}
	say("}");
	finish(out, out_octets, 1);
}

static _Noreturn void fail(enum code code, const char *message, const char *details, long number)
{
	begin_error(code);
	say(message);
	end_error(details, number);
}
