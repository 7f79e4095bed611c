/* The two top-level strings that shim.c needs of a network configuration.
 *
 * `scan` finds them in a text that is JSON as a whole, and only there; `unescape` says what they
 * mean. No memory of its own, no recursion; nothing is read beyond `end`.
 *
 * Standards: RFC 8259 (JSON), RFC 3629 (UTF-8).
 */
#include <stddef.h>
#include <string.h>

enum { DEPTH_LIMIT = 512 };

struct text {
	const unsigned char *at;
	size_t octets;
};

static int is_utf8(const unsigned char *p, const unsigned char *end)
{
	while (p < end) {
		unsigned c = *p++, low = 0x80, high = 0xBF;
		int more;

		if (c < 0x80)
			continue;
		if (c < 0xC2 || c > 0xF4)
			return 0;
		more = c < 0xE0 ? 1 : c < 0xF0 ? 2 : 3;
		if (c == 0xE0)
			low = 0xA0; /* overlong */
		else if (c == 0xED)
			high = 0x9F; /* surrogates */
		else if (c == 0xF0)
			low = 0x90; /* overlong */
		else if (c == 0xF4)
			high = 0x8F; /* beyond U+10FFFF */
		while (more--) {
			if (p == end || *p < low || *p > high)
				return 0;
			p++;
			low = 0x80;
			high = 0xBF;
		}
	}
	return 1;
}

static const unsigned char *space(const unsigned char *p, const unsigned char *end)
{
	while (p < end && (*p == ' ' || *p == '\t' || *p == '\n' || *p == '\r'))
		p++;
	return p;
}

static int hex4(const unsigned char *p, const unsigned char *end)
{
	int value = 0;

	if (end - p < 4)
		return -1;
	for (int i = 0; i < 4; i++) {
		int c = p[i] | 0x20;

		if (p[i] >= '0' && p[i] <= '9')
			value = value * 16 + p[i] - '0';
		else if (c >= 'a' && c <= 'f')
			value = value * 16 + c - 'a' + 10;
		else
			return -1;
	}
	return value;
}

/* Past the closing quote of the string whose inside begins at p; NULL: it is none. */
static const unsigned char *string(const unsigned char *p, const unsigned char *end)
{
	while (p < end && *p != '"') {
		if (*p < 0x20)
			return NULL;
		if (*p++ != '\\')
			continue;
		if (p == end)
			return NULL;
		if (*p == 'u') {
			if (hex4(p + 1, end) < 0)
				return NULL;
			p += 5;
		} else if (memchr("\"\\/bfnrt", *p, 8)) {
			p++;
		} else {
			return NULL;
		}
	}
	return p < end ? p + 1 : NULL;
}

static size_t utf8(unsigned char *to, unsigned c)
{
	if (c < 0x80) {
		to[0] = c;
		return 1;
	}
	if (c < 0x800) {
		to[0] = 0xC0 | c >> 6;
		to[1] = 0x80 | (c & 0x3F);
		return 2;
	}
	if (c < 0x10000) {
		to[0] = 0xE0 | c >> 12;
		to[1] = 0x80 | (c >> 6 & 0x3F);
		to[2] = 0x80 | (c & 0x3F);
		return 3;
	}
	to[0] = 0xF0 | c >> 18;
	to[1] = 0x80 | (c >> 12 & 0x3F);
	to[2] = 0x80 | (c >> 6 & 0x3F);
	to[3] = 0x80 | (c & 0x3F);
	return 4;
}

/* Octets that a valid string means; -1: more than `room`, or half a surrogate pair. */
static long unescape(struct text raw, unsigned char *to, size_t room)
{
	const unsigned char *p = raw.at, *end = raw.at + raw.octets;
	size_t n = 0;

	while (p < end) {
		unsigned char one[4];
		size_t octets = 1;
		unsigned c = *p++;

		one[0] = c;
		if (c == '\\') {
			static const char from[] = "bfnrt", meant[] = "\b\f\n\r\t";
			const char *known = memchr(from, *p, 5);

			one[0] = known ? meant[known - from] : *p;
			if (*p++ == 'u') {
				c = hex4(p, end);
				p += 4;
				if (c >= 0xD800 && c < 0xDC00 && end - p >= 6 && p[0] == '\\' &&
				    p[1] == 'u') {
					unsigned low = hex4(p + 2, end);

					if (low >= 0xDC00 && low < 0xE000) {
						c = 0x10000 + ((c - 0xD800) << 10) + (low - 0xDC00);
						p += 6;
					}
				}
				if (c >= 0xD800 && c < 0xE000)
					return -1;
				octets = utf8(one, c);
			}
		}
		if (octets > room - n)
			return -1;
		memcpy(to + n, one, octets);
		n += octets;
	}
	return n;
}

static const unsigned char *digits(const unsigned char *p, const unsigned char *end)
{
	const unsigned char *from = p;

	while (p < end && *p >= '0' && *p <= '9')
		p++;
	return p > from ? p : NULL;
}

static const unsigned char *number(const unsigned char *p, const unsigned char *end)
{
	if (p < end && *p == '-')
		p++;
	if (p < end && *p == '0')
		p++;
	else if (!(p = digits(p, end)))
		return NULL;
	if (p < end && *p == '.' && !(p = digits(p + 1, end)))
		return NULL;
	if (p < end && (*p | 0x20) == 'e') {
		p++;
		if (p < end && (*p == '+' || *p == '-'))
			p++;
		p = digits(p, end);
	}
	return p;
}

static const unsigned char *scalar(const unsigned char *p, const unsigned char *end)
{
	static const char *const words[] = {"true", "false", "null"};

	for (int i = 0; i < 3; i++) {
		size_t octets = strlen(words[i]);

		if ((size_t)(end - p) >= octets && !memcmp(p, words[i], octets))
			return p + octets;
	}
	return number(p, end);
}

enum { VERSION_FIELD, SOCKET_FIELD, FIELDS };

static int field_of(struct text key)
{
	static const char *const names[FIELDS] = {"cniVersion", "socket"};
	unsigned char name[16];
	long octets = unescape(key, name, sizeof name);

	for (int i = 0; i < FIELDS; i++)
		if (octets == (long)strlen(names[i]) && !memcmp(name, names[i], octets))
			return i;
	return FIELDS;
}

/* Fills `found` (with .at NULL where a field is no string); 0 when the text is not JSON. */
static int scan(const unsigned char *p, const unsigned char *end, struct text found[FIELDS])
{
	unsigned char is_object[DEPTH_LIMIT + 1];
	int depth = 0, field = FIELDS;
	const unsigned char *from;

	if (!is_utf8(p, end))
		return 0;
value:
	p = space(p, end);
	if (p == end)
		return 0;
	if (depth == 1 && field < FIELDS)
		found[field].at = NULL; /* of a field that stands twice the last counts */
	if (*p == '{' || *p == '[') {
		if (depth == DEPTH_LIMIT)
			return 0;
		is_object[++depth] = *p == '{';
		p = space(p + 1, end);
		if (p < end && *p == (is_object[depth] ? '}' : ']'))
			goto close;
		if (is_object[depth])
			goto key;
		goto value;
	}
	if (*p == '"') {
		from = p + 1;
		if (!(p = string(from, end)))
			return 0;
		if (depth == 1 && field < FIELDS)
			found[field] = (struct text){from, p - from - 1};
	} else if (!(p = scalar(p, end))) {
		return 0;
	}
after:
	p = space(p, end);
	if (!depth)
		return p == end;
	if (p == end)
		return 0;
	if (*p == ',') {
		p++;
		if (is_object[depth])
			goto key;
		goto value;
	}
	if (*p != (is_object[depth] ? '}' : ']'))
		return 0;
close:
	p++;
	depth--;
	goto after;
key:
	p = space(p, end);
	if (p == end || *p != '"')
		return 0;
	from = p + 1;
	if (!(p = string(from, end)))
		return 0;
	if (depth == 1)
		field = field_of((struct text){from, p - from - 1});
	p = space(p, end);
	if (p == end || *p != ':')
		return 0;
	p++;
	goto value;
}
