//! Wrong and borderline requests below the level of a client: heads, framing and encodings, byte by byte on a socket
//! of their own, and the answer that each must get before the connection goes.

use std::io::Write as _;

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::harness::PATIENCE;
use crate::harness::app::Service;
use crate::oracle::parse_utc;

const MIB: usize = 1 << 20;

fn now() -> i64 {
    parse_utc("2026-11-22T14:00:01.250Z")
}

async fn service() -> Service {
    Service::start("embedded", now()).await
}

fn point(driver: &str) -> String {
    json!({"driver_id": driver, "ts": now() - 5_000, "lat": 52.0, "lon": 21.0}).to_string()
}

/// Everything that came back on one connection, until it was closed; also whether it was, in good order.
struct Told {
    text: String,
    is_closed_well: bool,
}

impl Told {
    /// The statuses of all answers, in order.
    fn statuses(&self) -> Vec<u16> {
        let lines = self.text.lines().filter_map(|line| line.split("HTTP/1.1 ").nth(1));
        lines.map(|rest| rest[..3].parse().expect("a status")).collect()
    }

    fn has(&self, what: &str) -> bool {
        self.text.contains(what)
    }
}

/// Sends all of `bytes` while it reads what comes, as browsers do, and reads on to the end.
async fn tell(service: &Service, bytes: &[u8]) -> Told {
    let address = service.url().strip_prefix("http://").expect("a plain address");
    let (mut from, mut to) = TcpStream::connect(address).await.expect("it listens").into_split();
    let mut text = Vec::new();
    let talk = async {
        // The service may have heard enough before the end.
        let send = async { to.write_all(bytes).await };
        let read = from.read_to_end(&mut text);
        let (_, read) = tokio::join!(send, read);
        read.is_ok()
    };
    let is_closed_well = tokio::time::timeout(PATIENCE, talk).await.expect("the connection ends");
    Told { text: String::from_utf8_lossy(&text).into_owned(), is_closed_well }
}

/// Sends all of `bytes` and only then looks for an answer, as simple clients do.
async fn tell_deaf(service: &Service, bytes: &[u8]) -> Told {
    let address = service.url().strip_prefix("http://").expect("a plain address");
    let mut stream = TcpStream::connect(address).await.expect("it listens");
    stream.write_all(bytes).await.expect("everything is taken");
    let mut text = Vec::new();
    let is_closed_well = stream.read_to_end(&mut text).await.is_ok();
    Told { text: String::from_utf8_lossy(&text).into_owned(), is_closed_well }
}

fn head(fields: &str) -> Vec<u8> {
    format!("POST /v1/points HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n{fields}\r\n").into_bytes()
}

fn chunked(body: &[u8], chunk_bytes: usize) -> Vec<u8> {
    let mut out = Vec::new();
    for chunk in body.chunks(chunk_bytes) {
        out.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        out.extend_from_slice(chunk);
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"0\r\n\r\n");
    out
}

/// A batch padded with blanks to exactly so many bytes.
fn padded(driver: &str, bytes: usize) -> Vec<u8> {
    let mut body = format!("[{}]", point(driver)).into_bytes();
    body.resize(bytes, b' ');
    body
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_sends_too_much_is_told_so() {
    let service = service().await;
    let over = padded("refused", 4 * MIB + 1);
    let sized = [head(&format!("Content-Length: {}\r\n", over.len())), over.clone()].concat();
    let in_chunks = [head("Transfer-Encoding: chunked\r\n"), chunked(&over, 16 << 10)].concat();
    for (name, request) in [("sized", &sized), ("chunked", &in_chunks)] {
        for _ in 0..5 {
            let told = tell_deaf(&service, request).await;
            assert_eq!(told.statuses(), [413], "{name}: {}", told.text);
            assert!(told.has("body_too_large") && told.has("connection: close"), "{name}: {}", told.text);
            assert!(told.is_closed_well, "{name}");
        }
    }
    // One that never ends hears it too, if it listens.
    let endless = [head("Transfer-Encoding: chunked\r\n"), chunked(&vec![b' '; 64 * MIB], MIB)].concat();
    let told = tell(&service, &endless).await;
    assert_eq!(told.statuses(), [413], "{}", told.text);
    assert!(told.has("body_too_large"), "{}", told.text);
    // One that asks first is not told to go on.
    let asking = head(&format!("Expect: 100-continue\r\nContent-Length: {}\r\n", over.len()));
    let told = tell(&service, &asking).await;
    assert_eq!(told.statuses(), [413], "{}", told.text);
    let body = padded("asked", 200);
    let asking = format!("Expect: 100-continue\r\nConnection: close\r\nContent-Length: {}\r\n", body.len());
    let told = tell(&service, &[head(&asking), body].concat()).await;
    assert!(matches!(told.statuses()[..], [100, 202] | [202]), "{}", told.text);
    // To the byte.
    for (length, status) in [(4 * MIB, 202), (4 * MIB + 1, 413)] {
        let answer = service.post("/v1/points", "application/json", padded("limit", length)).await;
        assert_eq!(answer.status, status, "{length}");
    }
    assert_eq!(service.get("/v1/drivers/refused").await.status, 404);
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_head_is_refused() {
    let service = service().await;
    let long = "x".repeat(64 << 10);
    let close = "Connection: close\r\n";
    let get = |target: &str, fields: &str| format!("GET {target} HTTP/1.1\r\n{fields}{close}\r\n").into_bytes();
    let post = |fields: &str, body: &str| [head(&format!("{fields}{close}")), body.into()].concat();
    let rows: Vec<(Vec<u8>, u16, &str)> = vec![
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03zzcanaryzz".to_vec(), 400, ""),
        (b"GET /livez HTTP/3.7\r\nHost: x\r\n\r\n".to_vec(), 400, ""),
        (get("/livez", ""), 400, "malformed_request"),
        (get("/livez", "Host: x\r\nHost: zzcanaryzz\r\n"), 400, "malformed_request"),
        (get("/livez", "Host: x\r\n"), 200, ""),
        (get("/livez", &format!("Host: x\r\nX-Long: {long}\r\n")), 431, ""),
        (get("/livez", &format!("Host: x\r\n{}", "A: b\r\n".repeat(120))), 431, ""),
        (get(&format!("/{}", "x".repeat(70_000)), "Host: x\r\n"), 414, ""),
        (get("http://x/livez", "Host: x\r\n"), 200, ""),
        (get("/livez", "Host: x\r\nX-Odd: a\r\n b\r\n"), 400, ""),
        (get("/livez", "Host: x\r\nX-Odd: a\0b\r\n"), 400, ""),
        (post("Content-Length: 5\r\nContent-Length: 6\r\n", "zzcanaryzz"), 400, ""),
        (post("Content-Length: +5\r\n", "zzcanaryzz"), 400, ""),
        (post("Content-Length: 0x10\r\n", "zzcanaryzz"), 400, ""),
        (post("Content-Length: -1\r\n", "zzcanaryzz"), 400, ""),
        (post("Content-Length: 18446744073709551616\r\n", "zzcanaryzz"), 400, ""),
        (post("Transfer-Encoding: xchunked\r\n", "0\r\n\r\n"), 400, ""),
        (post("Transfer-Encoding: chunked, gzip\r\n", "0\r\n\r\n"), 400, ""),
        (post("Transfer-Encoding: chunked\r\n", "FFFFFFFFFFFFFFFFF\r\nzzcanaryzz"), 400, "malformed_request"),
        (post("Transfer-Encoding: chunked\r\n", "-1\r\nzzcanaryzz"), 400, "malformed_request"),
    ];
    for (request, status, code) in rows {
        let shown = String::from_utf8_lossy(&request[..request.len().min(100)]).into_owned();
        let told = tell(&service, &request).await;
        assert_eq!(told.statuses(), [status], "{shown}: {}", told.text);
        assert!(told.has(code), "{shown}: {}", told.text);
        assert!(!told.has("zzcanaryzz"), "{shown}: {}", told.text);
        assert!(told.is_closed_well, "{shown}: {}", told.text);
    }
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_lengths_never_make_two_requests() {
    let service = service().await;
    let batch = format!("[{}]", point("first"));
    let smuggled = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n";
    // The HTTP library drops the length and reads chunks (RFC 9112, 6.1). It must not go on with the connection then,
    // for somebody before it may have read the length.
    for fields in
        ["Content-Length: 3\r\nTransfer-Encoding: chunked\r\n", "Transfer-Encoding: chunked\r\nContent-Length: 3\r\n"]
    {
        let told = tell(&service, &[head(fields), chunked(batch.as_bytes(), 50), smuggled.to_vec()].concat()).await;
        assert_eq!(told.statuses(), [202], "{fields}: {}", told.text);
        assert!(told.is_closed_well && told.has("connection: close"), "{fields}: {}", told.text);
    }
    // What comes after the body is a request of its own, if it is one.
    let body = format!("[{}]", point("second"));
    let short = format!("Content-Length: {}\r\n", body.len());
    let told = tell(&service, &[head(&short), body.into_bytes(), b"zz \x01canary\r\n\r\n".to_vec()].concat()).await;
    assert_eq!(told.statuses(), [202, 400], "{}", told.text);
    assert!(!told.has("canary"), "{}", told.text);
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn there_is_nothing_beside_the_routes() {
    let service = service().await;
    for target in [
        "/nothing",
        "/V1/active",
        "/v1/active/",
        "//v1//active",
        "/v1/points/../active",
        "/v1/%2e%2e/active",
        "/v1/drivers//track",
        "/v1/drivers/",
        "/",
    ] {
        let request = format!("GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        let told = tell(&service, request.as_bytes()).await;
        assert_eq!(told.statuses(), [404], "{target}: {}", told.text);
        assert!(told.has("not_found"), "{target}: {}", told.text);
    }
    for (method, target, allow) in [
        ("GET", "/v1/points", "POST"),
        ("TRACE", "/v1/active", "GET,HEAD"),
        ("DELETE", "/health", "GET,HEAD"),
        ("ZZCANARYZZ", "/v1/points", "POST"),
        ("OPTIONS", "/v1/points", "POST"),
    ] {
        let request = format!("{method} {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        let told = tell(&service, request.as_bytes()).await;
        assert_eq!(told.statuses(), [405], "{method}: {}", told.text);
        assert!(
            told.has("method_not_allowed") && told.has(&format!("allow: {allow}\r\n")),
            "{method}: {}",
            told.text
        );
        assert!(!told.has("ZZCANARYZZ"), "{}", told.text);
    }
    for (accept, status) in [("text/html", 406), ("application/json;q=0", 406), ("text/html, */*;q=0.1", 200)] {
        assert_eq!(service.get_as(accept, "/v1/active").await.status, status, "{accept}");
    }
    service.stop().await;
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(bytes).expect("into memory");
    encoder.finish().expect("into memory")
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = zstd::Encoder::new(Vec::new(), 3).expect("a level");
    encoder.include_checksum(true).expect("an option");
    encoder.write_all(bytes).expect("into memory");
    encoder.finish().expect("into memory")
}

/// 512 MiB of blanks, in pieces, through an encoder.
fn bomb(mut write: impl FnMut(&[u8])) {
    let piece = vec![b' '; MIB];
    (0..512).for_each(|_| write(&piece));
}

fn gzip_bomb() -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    bomb(|piece| encoder.write_all(piece).expect("into memory"));
    encoder.finish().expect("into memory")
}

fn zstd_bomb(window_log: u32) -> Vec<u8> {
    let mut encoder = zstd::Encoder::new(Vec::new(), 3).expect("a level");
    encoder.window_log(window_log).expect("an option");
    bomb(|piece| encoder.write_all(piece).expect("into memory"));
    encoder.finish().expect("into memory")
}

/// The most memory that this process ever had, in MiB.
fn peak_rss_mib() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").expect("this is Linux");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("it is told");
    line.trim().trim_end_matches(" kB").parse::<usize>().expect("a number") >> 10
}

#[tokio::test(flavor = "multi_thread")]
async fn a_packed_body_is_what_it_says_or_refused() {
    let service = service().await;
    let plain = format!("[{}]", point("refused")).into_bytes();
    let flipped = |mut bytes: Vec<u8>, from_end: usize| {
        let at = bytes.len() - from_end;
        bytes[at] ^= 1;
        bytes
    };
    let cut = |bytes: Vec<u8>| bytes[..bytes.len() - 3].to_vec();
    let trailing = |bytes: Vec<u8>| [bytes, b"zzcanaryzz".to_vec()].concat();
    let mut wide_window = zstd_bomb(25);
    wide_window.truncate(64 << 10);
    let rows: Vec<(&str, Vec<u8>, u16, &str)> = vec![
        ("br", plain.clone(), 415, "unsupported_encoding"),
        ("deflate", plain.clone(), 415, "unsupported_encoding"),
        ("zzcanaryzz", plain.clone(), 415, "unsupported_encoding"),
        ("gzip, gzip", gzip(&gzip(&plain)), 415, "unsupported_encoding"),
        ("gzip, zstd", zstd(&gzip(&plain)), 415, "unsupported_encoding"),
        ("gzip", cut(gzip(&plain)), 400, "malformed_encoding"),
        ("zstd", cut(zstd(&plain)), 400, "malformed_encoding"),
        // The checksum is before the length at the end of gzip, and the end of zstd.
        ("gzip", flipped(gzip(&plain), 8), 400, "malformed_encoding"),
        ("zstd", flipped(zstd(&plain), 1), 400, "malformed_encoding"),
        ("gzip", trailing(gzip(&plain)), 400, "malformed_encoding"),
        ("zstd", trailing(zstd(&plain)), 400, "malformed_encoding"),
        ("gzip", plain.clone(), 400, "malformed_encoding"),
        ("zstd", plain.clone(), 400, "malformed_encoding"),
        ("gzip", vec![], 400, "malformed_encoding"),
        ("zstd", vec![], 400, "malformed_encoding"),
        ("identity", gzip(&plain), 400, "malformed_json"),
        ("gzip", gzip_bomb(), 413, "body_too_large"),
        ("zstd", zstd_bomb(20), 413, "body_too_large"),
        ("zstd", wide_window, 413, "body_too_large"),
        ("gzip", gzip(&padded("refused", 16 * MIB + 1)), 413, "body_too_large"),
        ("zstd", zstd(&padded("refused", 16 * MIB + 1)), 413, "body_too_large"),
    ];
    let before_mib = peak_rss_mib();
    for (encoding, body, status, code) in rows {
        let bytes = body.len();
        let request = service.request("POST", "/v1/points").header("content-type", "application/json");
        let request = request.header("content-encoding", encoding).body(body);
        let answer = service.send(request).await.unwrap_or_else(|| panic!("no answer: {encoding}, {bytes} bytes"));
        let told = String::from_utf8_lossy(&answer.body).into_owned();
        assert_eq!((answer.status, answer.code().as_str()), (status, code), "{encoding}, {bytes} bytes: {told}");
        assert!(!told.contains("zzcanaryzz"), "{told}");
        let offered = if status == 415 { "gzip, zstd" } else { "" };
        assert_eq!(answer.header("accept-encoding"), offered, "{encoding}");
    }
    let grown_mib = peak_rss_mib() - before_mib;
    // Other tests run beside this one and need memory of their own; a bomb that went off would need 512 MiB.
    assert!(grown_mib < 400, "{grown_mib} MiB");

    let (one, two) = (point("one") + "\n", "\n\r\n".to_owned() + &point("two"));
    let taken: Vec<(&str, &str, Vec<u8>, usize)> = vec![
        ("gzip", "application/x-ndjson", [gzip(one.as_bytes()), gzip(two.as_bytes())].concat(), 2),
        ("zstd", "application/x-ndjson", [zstd(one.as_bytes()), zstd(two.as_bytes())].concat(), 2),
        ("GZIP", "application/json", gzip(&padded("limit", 16 * MIB)), 1),
        ("zstd", "application/json", zstd(&padded("limit", 16 * MIB)), 1),
    ];
    for (encoding, media_type, body, accepted) in taken {
        let request = service.request("POST", "/v1/points").header("content-type", media_type);
        let answer = service.send(request.header("content-encoding", encoding).body(body)).await.expect("an answer");
        assert_eq!((answer.status, &answer.json()["accepted"]), (202, &json!(accepted)), "{encoding}: {answer:?}");
    }
    // Of lines, the points are counted, and none of them if one cannot be read.
    let bad = point("bad").replace("52.0", "99");
    let lines = format!("{}\r\n\r\n\n{bad}\r\n{}", point("one"), point("two"));
    let answer = service.post("/v1/points?wait=applied", "application/x-ndjson", lines).await.json();
    assert_eq!((&answer["accepted"], &answer["errors"][0]["index"]), (&json!(2), &json!(1)), "{answer}");
    assert_eq!(service.get("/v1/drivers/refused").await.status, 404, "nothing of what was refused is stored");
    service.stop().await;
}
