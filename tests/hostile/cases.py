"""Requests and answers that break the rules of HTTP/1.1, or stand at their edge, each with the section that it is about.

`named()` and `answers()` are the cases of the report in docs/conformance-peers.md, `all()` the requests and some hundreds made from them for the
differential test. Every request asks for the path /case, and where it hides a second request, that asks for /smuggled.
"""

from dataclasses import dataclass

HIDDEN = b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"


@dataclass(frozen=True)
class Case:
    about: str  # what is odd about it
    section: str  # where the rule stands; empty for requests made from others
    request: bytes  # as it is sent
    mark: bytes  # what of it a backend must not see as it came


def head(*lines, method=b"GET", target=b"/case", version=b"HTTP/1.1", host=b"Host: a", end=b"\r\n\r\n"):
    fields = ([host] if host is not None else []) + list(lines)
    return method + b" " + target + b" " + version + b"\r\n" + b"\r\n".join(fields) + end


def post(*lines, body=b"", **parts):
    return head(*lines, method=b"POST", **parts) + body


def chunked(body, *lines):
    return post(b"Transfer-Encoding: chunked", *lines, body=body)


def named():
    """The cases of the report."""
    te = b"Transfer-Encoding: chunked"
    return [
        # The request line.
        Case("bare LF ends every line", "RFC 9112, 2.2", b"GET /case HTTP/1.1\nHost: a\n\n", b"/case HTTP/1.1\n"),
        Case("bare CR in a field's value", "RFC 9112, 2.2", head(b"X-A: 1\rX-B: 2"), b"1\rX"),
        Case("two spaces before the target", "RFC 9112, 3", head(target=b" /case"), b"  /case"),
        Case("a tab before the version", "RFC 9112, 3", b"GET /case\tHTTP/1.1\r\nHost: a\r\n\r\n", b"\t"),
        Case("white space before the first field", "RFC 9112, 2.2", b"GET /case HTTP/1.1\r\n X: 1\r\nHost: a\r\n\r\n", b"\n X"),
        Case("a method that is no token", "RFC 9110, 9.1", head(method=b"GE(T"), b"GE(T"),
        Case("a method of 200 bytes", "RFC 9110, 9.1", head(method=b"M" * 200), b"M" * 200),
        Case("HTTP/0.9", "RFC 9112, 2.3", b"GET /case\r\n\r\n", b"/case\r\n"),
        Case("HTTP/1.2", "RFC 9112, 2.3", head(version=b"HTTP/1.2"), b"HTTP/1.2"),
        Case("HTTP/2.0 without its preface", "RFC 9112, 2.3", head(version=b"HTTP/2.0"), b"HTTP/2.0"),
        Case("version in lower case", "RFC 9112, 2.3", head(version=b"http/1.1"), b"http/1.1"),
        Case("NUL in the target", "RFC 3986, 3.3", head(target=b"/case\0x"), b"\0"),
        Case("a byte beyond ASCII in the target", "RFC 9112, 3.2", head(target=b"/case\xff"), b"\xff"),
        Case("a percent sign without digits", "RFC 3986, 2.1", head(target=b"/case%zz"), b"%zz"),
        Case("a fragment in the target", "RFC 9112, 3.2", head(target=b"/case#x"), b"#x"),
        Case("a backslash in the path", "RFC 3986, 3.3", head(target=b"/case\\..\\x"), b"\\"),
        Case("a target that is no path", "RFC 9112, 3.2", head(target=b"case"), b" case"),
        Case("`*` with GET", "RFC 9112, 3.2.4", head(target=b"*"), b" * "),
        Case("a path above the root", "RFC 3986, 5.2.4", head(target=b"/../../case"), b"/../"),
        # Host.
        Case("no Host", "RFC 9112, 3.2", head(host=None, end=b"\r\n"), b"/case"),
        Case("two Hosts", "RFC 9112, 3.2", head(b"Host: b"), b"Host: b"),
        Case("two equal Hosts", "RFC 9112, 3.2", head(b"Host: a"), b"Host: a\r\nHost: a"),
        Case("an empty Host", "RFC 9110, 7.2", head(host=b"Host:"), b"/case"),
        Case("a list of Hosts", "RFC 9110, 7.2", head(host=b"Host: a, b"), b"a, b"),
        Case("a path in Host", "RFC 9110, 7.2", head(host=b"Host: a/b"), b"a/b"),
        Case("user information in Host", "RFC 9110, 4.2.4", head(host=b"Host: u@a"), b"u@a"),
        Case("a port that is none", "RFC 3986, 3.2.3", head(host=b"Host: a:x"), b"a:x"),
        Case("the target names another host", "RFC 9112, 3.2.2", head(target=b"http://b/case"), b"http://b"),
        # Field lines.
        Case("space before the colon", "RFC 9112, 5.1", head(b"X-A : 1"), b"A :"),
        Case("a folded line", "RFC 9112, 5.2", head(b"X-A: 1\r\n 2"), b"\r\n 2"),
        Case("a name that is no token", "RFC 9110, 5.1", head(b"X@(A): 1"), b"X@(A)"),
        Case("a line without a colon", "RFC 9112, 5", head(b"nothing"), b"\nnothing\r"),
        Case("an empty name", "RFC 9110, 5.1", head(b": 1"), b"\n: 1"),
        Case("NUL in a value", "RFC 9110, 5.5", head(b"X-A: 1\x002"), b"\0"),
        Case("a control character in a value", "RFC 9110, 5.5", head(b"X-A: 1\x012"), b"\x01"),
        Case("Connection names Host", "RFC 9110, 7.6.1", head(b"Connection: host"), b"host\r"),
        # Framing.
        Case("Content-Length beside Transfer-Encoding", "RFC 9112, 6.1", post(b"Content-Length: 4", te, body=b"0\r\n\r\n" + HIDDEN), b"Content-Length: 4"),
        Case("Transfer-Encoding beside Content-Length", "RFC 9112, 6.1", post(te, b"Content-Length: 4", body=b"0\r\n\r\n" + HIDDEN), b"Content-Length: 4"),
        Case("two differing Content-Lengths", "RFC 9112, 6.3", post(b"Content-Length: 0", b"Content-Length: 5", body=b"abcde"), b"/case"),
        Case("two equal Content-Lengths", "RFC 9112, 6.3", post(b"Content-Length: 2", b"Content-Length: 2", body=b"ab"), b"2\r\nContent-Length: 2"),
        Case("a list of equal Content-Lengths", "RFC 9110, 8.6", post(b"Content-Length: 2, 2", body=b"ab"), b"2, 2"),
        Case("Content-Length with a sign", "RFC 9110, 8.6", post(b"Content-Length: +2", body=b"ab"), b"+2"),
        Case("Content-Length in hexadecimal", "RFC 9110, 8.6", post(b"Content-Length: 0x2", body=b"ab"), b"0x2"),
        Case("Content-Length beyond 64 bits", "RFC 9110, 8.6", post(b"Content-Length: 18446744073709551618", body=b"ab"), b"/case"),
        Case("Content-Length of no digits", "RFC 9110, 8.6", post(b"Content-Length:", body=b""), b"/case"),
        Case("a coding that is not chunked", "RFC 9112, 6.1", post(b"Transfer-Encoding: gzip", body=b"0\r\n\r\n"), b"gzip"),
        Case("chunked that is not last", "RFC 9112, 6.1", post(b"Transfer-Encoding: chunked, identity", body=b"0\r\n\r\n"), b"identity"),
        Case("chunked twice", "RFC 9112, 6.1", post(te, te, body=b"0\r\n\r\n"), b"/case"),
        Case("xchunked", "RFC 9112, 6.1", post(b"Transfer-Encoding: xchunked", body=b"0\r\n\r\n"), b"xchunked"),
        Case("a vertical tab before chunked", "RFC 9110, 5.5", post(b"Transfer-Encoding: \x0bchunked", body=b"0\r\n\r\n"), b"\x0b"),
        Case("Transfer-Encoding on HTTP/1.0", "RFC 9112, 6.1", post(te, version=b"HTTP/1.0", body=b"0\r\n\r\n"), b"chunked"),
        Case("a chunk size with a sign", "RFC 9112, 7.1", chunked(b"+2\r\nab\r\n0\r\n\r\n"), b"+2\r"),
        Case("a chunk size with 0x", "RFC 9112, 7.1", chunked(b"0x2\r\nab\r\n0\r\n\r\n"), b"0x2"),
        Case("a chunk size beyond 64 bits", "RFC 9112, 7.1", chunked(b"10000000000000002\r\nab\r\n0\r\n\r\n"), b"10000000000000002"),
        Case("white space after a chunk size", "RFC 9112, 7.1", chunked(b"2 \r\nab\r\n0\r\n\r\n"), b"2 \r"),
        Case("a bare LF after a chunk size", "RFC 9112, 7.1", chunked(b"2\nab\r\n0\r\n\r\n"), b"2\nab"),
        Case("a bare LF after chunk data", "RFC 9112, 7.1", chunked(b"2\r\nab\n0\r\n\r\n"), b"ab\n0"),
        Case("chunk data longer than its size", "RFC 9112, 7.1", chunked(b"2\r\nabc\r\n0\r\n\r\n"), b"abc"),
        Case("a bare semicolon after a chunk size", "RFC 9112, 7.1.1", chunked(b"2;\r\nab\r\n0\r\n\r\n"), b"2;"),
        Case("a bare CR in a chunk extension", "RFC 9112, 7.1.1", chunked(b"2;a=\rb\r\nab\r\n0\r\n\r\n"), b"=\rb"),
        Case("a bare LF in a chunk extension", "RFC 9112, 7.1.1", chunked(b"2;a\nab\r\n0\r\n\r\n"), b";a\n"),
        Case("Content-Length in a trailer", "RFC 9110, 6.5.1", chunked(b"0\r\nContent-Length: 5\r\n\r\n"), b"0\r\nContent-Length"),
        Case("Expect that is unknown", "RFC 9110, 10.1.1", post(b"Content-Length: 2", b"Expect: more", body=b"ab"), b"Expect: more"),
        Case("CONNECT", "RFC 9110, 9.3.6", b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n", b"CONNECT"),
    ]


# How the names and values that frame a message have been disguised: each in its place.
_AROUND_NAME = [
    b"%s:", b"%s :", b"%s\t:", b" %s:", b"\t%s:", b"%s\x0b:", b"%s\x0c:", b"%s\0:", b"%s\x7f:", b"%s\r:", b"%s\n:", b"%s::",
    b"X: 1\n%s:", b"X: 1\r%s:", b"X:\r\n %s:", b"%s\xa0:", b"\xef\xbb\xbf%s:", b"%s;:", b"%s/:", b"(%s):", b"\"%s\":", b"%s%%20:",
]  # fmt: skip
_AROUND_VALUE = [
    b"%s", b" %s", b"\t%s", b"  %s  ", b"\x0b%s", b"\x0c%s", b"%s\x0b", b"\0%s", b"%s\0", b"%s\x7f", b"\x85%s", b"\xa0%s",
    b"\"%s\"", b"'%s'", b"%s,", b",%s", b"%s;", b"%s;a=b", b"\r\n %s", b" \r\n\t%s", b"\n %s", b"%s\r", b"\r%s", b"%s %s", b"%s,%s", b"%s, x",
    b"x, %s", b"identity, %s",
]  # fmt: skip
_LENGTHS = [b"5", b"05", b"+5", b"-5", b"5.0", b"5e0", b"0x5", b"5_0", b"5 0", b"\xd9\xa5", b"18446744073709551621"]
_SIZES = [
    b"%x", b"0%x", b"00000000000000000%x", b"0x%x", b"+%x", b"-%x", b" %x", b"%x ", b"%x\t", b"%x;", b"%x;a", b"%x;a=b", b"%x;a=\"b\"",
    b"%x;a=\"\r\n\"", b"%x ;a", b"%x; a", b"%x;a =b", b"%x\r", b"%x\n", b"%x\0", b"%x_0", b"%x,", b"1%016x",
]  # fmt: skip
_ENDS = [b"0\r\n\r\n", b"0\n\n", b"0\r\n\n", b"00\r\n\r\n", b"0;a\r\n\r\n", b"0\r\nX: 1\r\n\r\n", b"0\r\n X: 1\r\n\r\n", b"0\r\nX : 1\r\n\r\n", b"\r\n0\r\n\r\n", b""]
_METHODS = [b"GET", b"POST", b"HEAD", b"PUT", b"DELETE", b"OPTIONS", b"TRACE", b"get", b"G\x00T", b"GET\t"]
_TARGETS = [
    b"/case", b"/case?a=b", b"/case?a=\x7f", b"/case%00", b"/case%2f..", b"/./case", b"//case", b"/case/..%2f", b"http://a/case", b"HTTP://a/case",
    b"http://a:80/case", b"http:///case", b"http://a\\@b/case", b"/case HTTP/1.1\r\nX: 1\r\nY:", b"/case\x0b", b"/ca\x85se", b"/case?\"<>", b"/case;a=b", b"?case", b"a/case",
]  # fmt: skip


def made():
    """Requests made by disguising what frames a message, in each place."""
    chunks = b"5\r\nabcde\r\n0\r\n\r\n"
    for form in _AROUND_NAME:
        name = form.replace(b"%%", b"%")
        te, length = name.replace(b"%s", b"Transfer-Encoding"), name.replace(b"%s", b"Content-Length")
        yield post(te + b" chunked", body=chunks + HIDDEN)
        yield post(te + b" chunked", b"Content-Length: 5", body=chunks)
        yield post(b"Content-Length: 5", te + b" chunked", body=chunks)
        yield post(length + b" 5", body=b"abcde" + HIDDEN)
        yield post(b"Transfer-Encoding: chunked", length + b" 5", body=chunks + HIDDEN)
        yield head(name.replace(b"%s", b"Host") + b" b")
    for form in _AROUND_VALUE:
        yield post(b"Transfer-Encoding:" + form.replace(b"%s", b"chunked"), body=chunks + HIDDEN)
        yield post(b"Transfer-Encoding:" + form.replace(b"%s", b"CHUNKED"), b"Content-Length: 5", body=chunks)
        yield post(b"Content-Length:" + form.replace(b"%s", b"5"), body=b"abcde" + HIDDEN)
        yield head(host=b"Host:" + form.replace(b"%s", b"a"))
        yield head(b"Connection:" + form.replace(b"%s", b"x-a"), b"X-A: 1")
        yield head(b"X-A:" + form.replace(b"%s", b"1"))
    for one in _LENGTHS:
        for two in [None, b"5", b"0"]:
            lines = [b"Content-Length: " + one] + ([b"Content-Length: " + two] if two else [])
            yield post(*lines, body=b"abcde" + HIDDEN)
    for size in _SIZES:
        for end in (b"\r\n", b"\n", b"\r"):
            yield chunked(size.replace(b"%016x", b"0000000000000005").replace(b"%x", b"5") + end + b"abcde\r\n0\r\n\r\n" + HIDDEN)
    for end in _ENDS:
        yield chunked(b"5\r\nabcde\r\n" + end + HIDDEN)
        yield chunked(b"5\r\nabcde" + end + HIDDEN)
    for method in _METHODS:
        yield head(method=method)
        yield head(b"Content-Length: 5", method=method) + b"abcde" + HIDDEN
    for target in _TARGETS:
        yield head(target=target)
        yield head(target=target, version=b"HTTP/1.0")
    for end in (b"\n\n", b"\r\n\n", b"\n\r\n", b"\r\r", b"\r\n\r\n\r\n", b"\r\n \r\n\r\n"):
        yield head(b"X-A: 1", end=end) + HIDDEN


def all():
    """The named cases and those that are made."""
    made_ones = (Case("made", "", request, b"") for request in made())
    return named() + list(made_ones)


@dataclass(frozen=True)
class Answer:
    about: str
    section: str
    answer: bytes  # as the backend sends it
    mark: bytes  # what of it a client must not see as it came


def answer(*lines, status=b"HTTP/1.1 200 OK", body=b"ok", end=b"\r\n\r\n"):
    return status + b"".join(b"\r\n" + line for line in lines) + end + body


def answers():
    """The answers of the report."""
    two, te = b"Content-Length: 2", b"Transfer-Encoding: chunked"
    ok = b"2\r\nok\r\n0\r\n\r\n"
    evil = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"
    return [
        Answer("bare LF ends every line", "RFC 9112, 2.2", b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok", b"OK\nContent"),
        Answer("a bare LF in a field", "RFC 9112, 2.2", answer(b"X-A: 1\nX-B: 2", two), b"1\nX"),
        Answer("a bare CR in a field", "RFC 9112, 2.2", answer(b"X-A: 1\rX-B: 2", two), b"1\rX"),
        Answer("an empty line before the status line", "RFC 9112, 2.2", b"\r\n" + answer(two), b"\r\nHTTP"),
        Answer("a version of HTTP/2", "RFC 9112, 2.3", answer(two, status=b"HTTP/2.0 200 OK"), b"HTTP/2"),
        Answer("a status beyond 599", "RFC 9110, 15", answer(two, status=b"HTTP/1.1 600 No"), b"600"),
        Answer("a status below 100", "RFC 9110, 15", answer(two, status=b"HTTP/1.1 099 No"), b"099"),
        Answer("two spaces before the status", "RFC 9112, 4", answer(two, status=b"HTTP/1.1  200 OK"), b"  200"),
        Answer("another protocol", "RFC 9112, 4", b"SSH-2.0-OpenSSH_9.9\r\n", b"SSH"),
        Answer("space before the colon", "RFC 9112, 5.1", answer(b"Content-Length : 2"), b"Length :"),
        Answer("a folded line", "RFC 9112, 5.2", answer(b"X-A: 1\r\n 2", two), b"1\r\n 2"),
        Answer("a name that is no token", "RFC 9110, 5.1", answer(b"X A: 1", two), b"X A"),
        Answer("a line without a colon", "RFC 9112, 5", answer(b"nothing", two), b"nothing"),
        Answer("NUL in a value", "RFC 9110, 5.5", answer(b"X-A: a\0b", two), b"\0"),
        Answer("two differing Content-Lengths", "RFC 9112, 6.3", answer(two, b"Content-Length: 3"), b"Length: 3"),
        Answer("two equal Content-Lengths", "RFC 9112, 6.3", answer(two, two), two + b"\r\n" + two),
        Answer("a list of equal Content-Lengths", "RFC 9110, 8.6", answer(b"Content-Length: 2, 2"), b"2, 2"),
        Answer("Content-Length with a sign", "RFC 9110, 8.6", answer(b"Content-Length: +2"), b"+2"),
        Answer("a negative Content-Length", "RFC 9110, 8.6", answer(b"Content-Length: -2"), b"-2"),
        Answer("Content-Length beyond 64 bits", "RFC 9110, 8.6", answer(b"Content-Length: 99999999999999999999"), b"9999"),
        Answer("Content-Length beside Transfer-Encoding", "RFC 9112, 6.3", answer(b"Content-Length: 3", te, body=ok), b"Length: 3"),
        Answer("an unknown transfer coding", "RFC 9112, 6.1", answer(b"Transfer-Encoding: gzip"), b"gzip"),
        Answer("a coding before chunked", "RFC 9112, 6.1", answer(b"Transfer-Encoding: gzip, chunked", body=ok), b"gzip"),
        Answer("chunked twice", "RFC 9112, 6.1", answer(te, te, body=ok), te + b"\r\n" + te),
        Answer("chunked on HTTP/1.0", "RFC 9112, 6.1", answer(te, body=ok, status=b"HTTP/1.0 200 OK"), b"HTTP/1.0"),
        Answer("a chunk size with a sign", "RFC 9112, 7.1", answer(te, body=b"+2\r\nok\r\n0\r\n\r\n"), b"+2"),
        Answer("a chunk size with 0x", "RFC 9112, 7.1", answer(te, body=b"0x2\r\nok\r\n0\r\n\r\n"), b"0x2"),
        Answer("a chunk size beyond 64 bits", "RFC 9112, 7.1", answer(te, body=b"FFFFFFFFFFFFFFFFF\r\nok\r\n"), b"FFFFF"),
        Answer("a chunk longer than its size", "RFC 9112, 7.1", answer(te, body=b"2\r\nokX\r\n0\r\n\r\n"), b"okX"),
        Answer("bare LF in chunks", "RFC 9112, 7.1", answer(te, body=b"2\nok\n0\n\n"), b"2\nok"),
        Answer("a trailer that is no field", "RFC 9112, 7.1.2", answer(te, body=b"2\r\nok\r\n0\r\nX A: 1\r\n\r\n"), b"X A"),
        Answer("a second answer after the first", "RFC 9112, 9.2", answer(two, body=b"ok" + evil), b"evil"),
        Answer("an answer after a 204", "RFC 9112, 6.3", answer(status=b"HTTP/1.1 204 No Content", body=evil), b"evil"),
        Answer("an answer after a 304", "RFC 9112, 6.3", answer(status=b"HTTP/1.1 304 Not Modified", body=evil), b"evil"),
        Answer("a 204 that promises a body", "RFC 9110, 8.6", answer(two, status=b"HTTP/1.1 204 No Content", body=b""), two),
        Answer("101 that nobody asked for", "RFC 9110, 15.2.2", answer(b"Upgrade: x", b"Connection: upgrade", status=b"HTTP/1.1 101 Go"), b"101"),
    ]
