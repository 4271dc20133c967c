//! What a line of the access log looks like: JSON, `combined`, or a template.
//!
//! Pure: a record in, a line out, appended to a buffer that the caller uses again. Whatever a record holds, it becomes
//! exactly one line.

use std::time::{Duration, SystemTime};

use jiff::civil::DateTime;
use jiff::tz::TimeZone;

use super::escape;
use super::record::{Record, Value, protocol};
use super::second::{Second, timestamp};
use crate::base::text;
use crate::config::plan::{LogFormat, TemplatePart};

/// The room for a line of the usual length.
const USUAL: usize = 768;

/// A format, ready to write lines.
#[derive(Debug)]
pub struct Format(Kind);

#[derive(Debug)]
enum Kind {
    Json,
    Combined(TimeZone),
    Template(Vec<TemplatePart>),
}

impl Format {
    /// The format of a plan. `combined` tells times in the system's time zone, which is looked up here (UTC if unknown).
    #[must_use]
    pub fn new(plan: &LogFormat) -> Self {
        match plan {
            LogFormat::Json => Self(Kind::Json),
            LogFormat::Combined => Self::combined(TimeZone::try_system().unwrap_or(TimeZone::UTC)),
            LogFormat::Template(parts) => Self(Kind::Template(parts.iter().map(on_one_line).collect())),
        }
    }

    /// `combined` with times in the zone given.
    #[must_use]
    pub(super) fn combined(zone: TimeZone) -> Self {
        Self(Kind::Combined(zone))
    }

    /// Appends the line of `record` with its line feed; `second` is kept from line to line.
    pub fn write(&self, record: &Record<'_>, second: &mut Second, line: &mut Vec<u8>) {
        match &self.0 {
            Kind::Json => json_line(line, record, second),
            Kind::Combined(zone) => combined_line(line, record, zone),
            Kind::Template(parts) => template_line(line, record, second, parts),
        }
        line.push(b'\n');
    }
}

/// A template's own text may hold a tab, but nothing that would end the line.
fn on_one_line(part: &TemplatePart) -> TemplatePart {
    match part {
        TemplatePart::Text(text) => TemplatePart::Text(text.replace(|c: char| c.is_control() && c != '\t', " ")),
        TemplatePart::Name(field) => TemplatePart::Name(*field),
    }
}

/// A member of the line's object: `"name":` with what comes before it.
macro_rules! key {
    ($name:literal) => {
        concat!(",\"", $name, "\":").as_bytes()
    };
}

/// The same for a text, with its opening quote.
macro_rules! text_key {
    ($name:literal) => {
        concat!(",\"", $name, "\":\"").as_bytes()
    };
}

/// The fields in the order of [`LogField::ALL`], written out: this runs once for each request.
fn json_line(line: &mut Vec<u8>, record: &Record<'_>, second: &mut Second) {
    line.reserve(USUAL);
    line.extend_from_slice(b"{\"time\":\"");
    second.rfc3339(line, record.time);
    line.push(b'"');
    quoted(line, text_key!("request_id"), record.request_id.as_bytes());
    if let Some(client) = record.client {
        line.extend_from_slice(text_key!("client"));
        text::address(line, client);
        line.push(b'"');
    }
    quoted(line, text_key!("listener"), record.listener.as_bytes());
    record.method.inspect(|method| quoted(line, text_key!("method"), method));
    plain(line, text_key!("scheme"), record.scheme.as_str());
    record.host.inspect(|host| quoted(line, text_key!("host"), host));
    if let Some(path) = record.path {
        line.extend_from_slice(text_key!("path"));
        target(line, path, record.query, escape::json);
        line.push(b'"');
    }
    record.protocol.inspect(|version| plain(line, text_key!("protocol"), protocol(*version)));
    numbered(line, key!("status"), record.status.into());
    record.reason.inspect(|reason| plain(line, text_key!("reason"), reason.as_str()));
    record.dry_run.inspect(|reason| plain(line, text_key!("dry_run"), reason.as_str()));
    record.route.inspect(|route| quoted(line, text_key!("route"), route.as_bytes()));
    record.upstream.inspect(|upstream| quoted(line, text_key!("upstream"), upstream.as_bytes()));
    record.backend.inspect(|backend| quoted(line, text_key!("backend"), backend.as_bytes()));
    record.attempts.inspect(|attempts| numbered(line, key!("attempts"), (*attempts).into()));
    timed(line, key!("duration_ms"), record.duration);
    record.connect.inspect(|connect| timed(line, key!("connect_ms"), *connect));
    record.first_byte.inspect(|first_byte| timed(line, key!("first_byte_ms"), *first_byte));
    if let Some(reused) = record.reused {
        line.extend_from_slice(key!("reused"));
        flag(line, reused);
    }
    numbered(line, key!("bytes_in"), record.bytes_in);
    numbered(line, key!("bytes_out"), record.bytes_out);
    record.user_agent.inspect(|agent| quoted(line, text_key!("user_agent"), agent));
    record.referer.inspect(|referer| quoted(line, text_key!("referer"), referer));
    record.tls.inspect(|tls| quoted(line, text_key!("tls"), tls.as_bytes()));
    record.trace_id.inspect(|id| quoted(line, text_key!("trace_id"), id.as_bytes()));
    line.push(b'}');
}

/// A word of ours, which holds nothing to be escaped.
#[inline]
fn plain(line: &mut Vec<u8>, key: &[u8], text: &'static str) {
    line.extend_from_slice(key);
    line.extend_from_slice(text.as_bytes());
    line.push(b'"');
}

#[inline]
fn quoted(line: &mut Vec<u8>, key: &[u8], text: &[u8]) {
    line.extend_from_slice(key);
    escape::json(line, text);
    line.push(b'"');
}

#[inline]
fn numbered(line: &mut Vec<u8>, key: &[u8], number: u64) {
    line.extend_from_slice(key);
    self::number(line, number);
}

#[inline]
fn timed(line: &mut Vec<u8>, key: &[u8], duration: Duration) {
    line.extend_from_slice(key);
    millis(line, duration);
}

fn template_line(line: &mut Vec<u8>, record: &Record<'_>, second: &mut Second, parts: &[TemplatePart]) {
    for part in parts {
        match part {
            TemplatePart::Text(text) => line.extend_from_slice(text.as_bytes()),
            TemplatePart::Name(field) => match record.value(*field) {
                Some(value) => bare_value(line, value, second),
                None => line.push(b'-'),
            },
        }
    }
}

fn bare_value(line: &mut Vec<u8>, value: Value<'_>, second: &mut Second) {
    match value {
        Value::Time(time) => second.rfc3339(line, time),
        Value::Text(text) => escape::nginx(line, text),
        Value::Target(path, query) => target(line, path, query, escape::nginx),
        Value::Address(address) => text::address(line, address),
        Value::Number(number) => self::number(line, number),
        Value::Millis(duration) => millis(line, duration),
        Value::Flag(flag) => self::flag(line, flag),
    }
}

/// `$remote_addr - $remote_user [$time_local] "$request" $status $body_bytes_sent "$http_referer" "$http_user_agent"`, as
/// in nginx's `ngx_http_combined_fmt`.
fn combined_line(line: &mut Vec<u8>, record: &Record<'_>, zone: &TimeZone) {
    match record.client {
        Some(client) => text::address(line, client),
        None => line.extend_from_slice(b"unix:"), // as nginx names a client on a unix socket
    }
    line.extend_from_slice(b" - - [");
    common_log_time(line, record.time, zone);
    line.extend_from_slice(b"] \"");
    request_line(line, record);
    line.extend_from_slice(b"\" ");
    number(line, record.status.into());
    line.push(b' ');
    number(line, record.bytes_out);
    line.extend_from_slice(b" \"");
    text_or_dash(line, record.referer);
    line.extend_from_slice(b"\" \"");
    text_or_dash(line, record.user_agent);
    line.push(b'"');
}

fn request_line(line: &mut Vec<u8>, record: &Record<'_>) {
    let (Some(method), Some(path)) = (record.method, record.path) else {
        line.push(b'-');
        return;
    };
    escape::nginx(line, method);
    line.push(b' ');
    target(line, path, record.query, escape::nginx);
    if let Some(version) = record.protocol {
        line.push(b' ');
        line.extend_from_slice(protocol(version).as_bytes());
    }
}

fn target(line: &mut Vec<u8>, path: &[u8], query: Option<&[u8]>, escape: fn(&mut Vec<u8>, &[u8])) {
    escape(line, path);
    if let Some(query) = query {
        line.push(b'?');
        escape(line, query);
    }
}

fn text_or_dash(line: &mut Vec<u8>, text: Option<&[u8]>) {
    match text {
        Some(text) => escape::nginx(line, text),
        None => line.push(b'-'),
    }
}

fn flag(line: &mut Vec<u8>, flag: bool) {
    line.extend_from_slice(if flag { b"true" } else { b"false" });
}

fn number(line: &mut Vec<u8>, number: u64) {
    line.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

/// Milliseconds with at most three decimals, cut off.
fn millis(line: &mut Vec<u8>, duration: Duration) {
    let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
    number(line, micros / 1000);
    let mut rest = micros % 1000;
    if rest == 0 {
        return;
    }
    line.push(b'.');
    let mut unit = 100;
    while rest > 0 {
        line.push(digit(rest / unit));
        rest %= unit;
        unit /= 10;
    }
}

pub(super) fn time_of_day(line: &mut Vec<u8>, civil: &DateTime) {
    padded(line, civil.hour().unsigned_abs().into(), 2);
    line.push(b':');
    padded(line, civil.minute().unsigned_abs().into(), 2);
    line.push(b':');
    padded(line, civil.second().unsigned_abs().into(), 2);
}

/// `31/Jan/2026:13:00:00 +0100`, the common log format's time.
fn common_log_time(line: &mut Vec<u8>, time: SystemTime, zone: &TimeZone) {
    const MONTHS: [&[u8]; 12] =
        [b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec"];
    let timestamp = timestamp(time);
    let offset = zone.to_offset(timestamp);
    let civil = offset.to_datetime(timestamp);
    padded(line, civil.day().unsigned_abs().into(), 2);
    line.push(b'/');
    line.extend_from_slice(MONTHS[usize::from(civil.month().unsigned_abs()) - 1]);
    line.push(b'/');
    padded(line, civil.year().unsigned_abs().into(), 4);
    line.push(b':');
    time_of_day(line, &civil);
    line.extend_from_slice(if offset.seconds() < 0 { b" -" } else { b" +" });
    let minutes = offset.seconds().unsigned_abs() / 60;
    padded(line, minutes / 60 * 100 + minutes % 60, 4);
}

/// `number` in `width` digits; what does not fit is cut off on the left.
pub(super) fn padded(line: &mut Vec<u8>, number: u32, width: u32) {
    for place in (0..width).rev() {
        line.push(digit(u64::from(number / 10_u32.pow(place) % 10)));
    }
}

/// The digit for a number below ten.
fn digit(number: u64) -> u8 {
    b'0' + (number % 10) as u8
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::record::tests::{a_request, any_record};
    use super::*;
    use crate::config::plan::LogField;
    use crate::telemetry::reason::Reason;

    fn line(format: &Format, record: &Record<'_>) -> String {
        let mut line = Vec::new();
        format.write(record, &mut Second::new(), &mut line);
        String::from_utf8(line).unwrap()
    }

    fn template(text: &str, field: LogField) -> Format {
        Format::new(&LogFormat::Template(vec![
            TemplatePart::Text(text.to_owned()),
            TemplatePart::Name(field),
            TemplatePart::Text(text.to_owned()),
        ]))
    }

    #[test]
    fn json_holds_every_field_in_the_order_of_the_manual() {
        let record =
            Record { reason: Some(Reason::ConnectionRefused), dry_run: Some(Reason::RateLimited), ..a_request() };
        assert_eq!(
            line(&Format::new(&LogFormat::Json), &record),
            concat!(
                r#"{"time":"2026-01-31T12:00:00.123Z","request_id":"01HX","client":"192.0.2.7","listener":"public","#,
                r#""method":"GET","scheme":"https","host":"example.com","path":"/a?b=c","protocol":"HTTP/1.1","#,
                r#""status":200,"reason":"connection_refused","dry_run":"rate_limited","route":"site","upstream":"web","#,
                r#""backend":"10.0.0.1:8080","attempts":1,"duration_ms":12.345,"connect_ms":0.25,"#,
                r#""first_byte_ms":7,"reused":false,"bytes_in":0,"bytes_out":512,"user_agent":"curl/8.5","#,
                r#""referer":"https://example.com/","tls":"TLSv1.3","trace_id":"4bf92f3577b34da6a3ce929d0e0e4736"}"#,
                "\n"
            )
        );
    }

    #[test]
    fn json_leaves_out_fields_without_a_value() {
        let record = Record {
            client: None,
            method: None,
            host: None,
            path: None,
            protocol: None,
            status: 400,
            reason: Some(Reason::HttpRequestError),
            route: None,
            upstream: None,
            backend: None,
            attempts: None,
            connect: None,
            first_byte: None,
            reused: None,
            user_agent: None,
            referer: None,
            tls: None,
            trace_id: None,
            ..a_request()
        };
        assert_eq!(
            line(&Format::new(&LogFormat::Json), &record),
            concat!(
                r#"{"time":"2026-01-31T12:00:00.123Z","request_id":"01HX","listener":"public","scheme":"https","#,
                r#""status":400,"reason":"http_request_error","duration_ms":12.345,"bytes_in":0,"bytes_out":512}"#,
                "\n"
            )
        );
    }

    #[test]
    fn combined_is_what_nginx_writes() {
        let berlin = TimeZone::fixed(jiff::tz::offset(1));
        assert_eq!(
            line(&Format::combined(berlin), &a_request()),
            "192.0.2.7 - - [31/Jan/2026:13:00:00 +0100] \"GET /a?b=c HTTP/1.1\" 200 512 \
             \"https://example.com/\" \"curl/8.5\"\n"
        );
    }

    // Taken from the log of nginx 1.22 for the same bytes on the wire.
    #[test]
    fn combined_escapes_what_nginx_escapes() {
        let record = Record {
            client: Some([127, 0, 0, 1].into()),
            path: Some(b"/\"\\\xc3\xa9?q=%22"),
            query: None,
            referer: None,
            user_agent: Some(b"a\"b\\c\td\xff\x7f"),
            ..a_request()
        };
        assert_eq!(
            line(&Format::combined(TimeZone::UTC), &record),
            "127.0.0.1 - - [31/Jan/2026:12:00:00 +0000] \"GET /\\x22\\x5C\\xC3\\xA9?q=%22 HTTP/1.1\" 200 512 \
             \"-\" \"a\\x22b\\x5Cc\\x09d\\xFF\\x7F\"\n"
        );
    }

    #[test]
    fn combined_tells_offsets_west_of_greenwich_and_of_half_hours() {
        let zone = TimeZone::fixed(jiff::tz::Offset::from_seconds(-(3 * 3600 + 30 * 60)).unwrap());
        assert!(line(&Format::combined(zone), &a_request()).contains("[31/Jan/2026:08:30:00 -0330]"));
    }

    #[test]
    fn a_template_writes_a_dash_for_a_missing_value() {
        let record = Record { reason: None, ..a_request() };
        assert_eq!(line(&template("|", LogField::Reason), &record), "|-|\n");
    }

    #[test]
    fn milliseconds_have_at_most_three_decimals() {
        for (nanos, text) in
            [(0, "0"), (999, "0"), (1_000, "0.001"), (120_000, "0.12"), (5_000_000, "5"), (1_234_567_890, "1234.567")]
        {
            let mut line = Vec::new();
            millis(&mut line, Duration::from_nanos(nanos));
            assert_eq!(line, text.as_bytes());
        }
    }

    proptest! {
        #[test]
        fn json_lines_parse_whatever_the_client_sent(record in any_record()) {
            let line = line(&Format::new(&LogFormat::Json), &record.view());
            let value: serde_json::Value = serde_json::from_str(&line).unwrap();
            prop_assert_eq!(value["user_agent"].as_str().unwrap(), String::from_utf8_lossy(&record.bytes));
            prop_assert_eq!(line.matches('\n').count(), 1);
        }

        #[test]
        fn one_request_is_one_line_for_any_template(record in any_record(), text in any::<String>(), field in 0..LogField::ALL.len()) {
            let line = line(&template(&text, LogField::ALL[field].0), &record.view());
            prop_assert_eq!(line.find(|c: char| c.is_control() && c != '\t'), Some(line.len() - 1));
        }

        #[test]
        fn one_request_is_one_line_of_combined(record in any_record()) {
            let line = line(&Format::combined(TimeZone::UTC), &record.view());
            prop_assert_eq!(line.find(|c: char| c.is_control()), Some(line.len() - 1));
            prop_assert_eq!(line.matches('"').count(), 6);
        }
    }
}
