//! Requests that must fail, and that what they get is documented.

use super::served::{JSON, Served};

const TEXT: &[(&str, &str)] = &[("content-type", "text/plain")];

/// Requests that must fail: method, operation, path, headers, body.
type Sad = (&'static str, &'static str, &'static str, &'static [(&'static str, &'static str)], &'static str);

/// Each with the status and the code that it must get.
const SAD: &[(Sad, u16, &str)] = &[
    (("GET", "/v1/nearby", "/v1/nearby?lon=1", &[], ""), 400, "missing_parameter"),
    (("GET", "/v1/nearby", "/v1/nearby?lat=x&lon=1", &[], ""), 400, "invalid_parameter"),
    (("GET", "/v1/nearby", "/v1/nearby?lat=1&lon=1&hour=2020010100", &[], ""), 404, "out_of_retention"),
    (("GET", "/v1/active", "/v1/active?cursor=x", &[], ""), 400, "invalid_cursor"),
    (("GET", "/v1/active", "/v1/active", &[("accept", "text/html")], ""), 406, "not_acceptable"),
    (
        ("GET", "/v1/active/count", "/v1/active/count", &[("accept", "application/geo+json")], ""),
        406,
        "not_acceptable",
    ),
    (("GET", "/v1/drivers/{id}", "/v1/drivers/nobody", &[], ""), 404, "not_found"),
    (("GET", "/v1/drivers/{id}", "/v1/drivers/~x", &[], ""), 400, "driver_id_invalid"),
    (("GET", "/v1/drivers/{id}/track", "/v1/drivers/nobody/track", &[], ""), 404, "not_found"),
    (("GET", "/v1/drivers/{id}/track", "/v1/drivers/x/track?from=2&to=1", &[], ""), 400, "invalid_parameter"),
    (("GET", "/v1/drivers/{id}/track", "/v1/drivers/x/track?cursor=x", &[], ""), 400, "invalid_cursor"),
    (("GET", "/v1/hours/{hour}/drivers", "/v1/hours/2026112224/drivers", &[], ""), 400, "invalid_parameter"),
    (("GET", "/v1/hours/{hour}/positions", "/v1/hours/2020010100/positions", &[], ""), 404, "out_of_retention"),
    (("GET", "/v1/density", "/v1/density?resolution=16", &[], ""), 400, "invalid_parameter"),
    (("DELETE", "/v1/drivers/{id}", "/v1/drivers/~x", &[], ""), 400, "driver_id_invalid"),
    (("POST", "/v1/points", "/v1/points?wait=x", JSON, "[]"), 400, "invalid_parameter"),
    (("POST", "/v1/points", "/v1/points", JSON, "["), 400, "malformed_json"),
    (("POST", "/v1/points", "/v1/points", JSON, "[]"), 422, "empty_batch"),
    (("POST", "/v1/points", "/v1/points", JSON, "[{}]"), 422, "no_valid_points"),
    (("POST", "/v1/points", "/v1/points", TEXT, "[]"), 415, "unsupported_media_type"),
    (
        (
            "POST",
            "/v1/points",
            "/v1/points",
            &[("content-type", "application/json"), ("content-encoding", "br")],
            "[]",
        ),
        415,
        "unsupported_encoding",
    ),
    (
        (
            "POST",
            "/v1/points",
            "/v1/points",
            &[("content-type", "application/json"), ("content-encoding", "gzip")],
            "[]",
        ),
        400,
        "malformed_encoding",
    ),
    (("POST", "/v1/admin/stores", "/v1/admin/stores", TEXT, "{}"), 415, "unsupported_media_type"),
    (("POST", "/v1/admin/stores", "/v1/admin/stores", JSON, "[]"), 400, "malformed_json"),
    (("POST", "/v1/admin/stores", "/v1/admin/stores", JSON, "{}"), 400, "missing_parameter"),
    (("POST", "/v1/admin/stores", "/v1/admin/stores", JSON, r#"{"x":1}"#), 400, "unknown_parameter"),
    (("POST", "/v1/admin/stores", "/v1/admin/stores", JSON, r#"{"url":"x"}"#), 400, "invalid_parameter"),
    (("POST", "/v1/admin/stores", "/v1/admin/stores", JSON, r#"{"url":"embedded"}"#), 409, "store_attached"),
    (
        ("POST", "/v1/admin/stores", "/v1/admin/stores", JSON, r#"{"url":"redis://127.0.0.1:1"}"#),
        409,
        "store_unreachable",
    ),
    (("PATCH", "/v1/admin/stores/{name}", "/v1/admin/stores/x", JSON, "{}"), 400, "missing_parameter"),
    (("PATCH", "/v1/admin/stores/{name}", "/v1/admin/stores/x", JSON, r#"{"reads_percent":1}"#), 404, "not_found"),
    (
        ("PATCH", "/v1/admin/stores/{name}", "/v1/admin/stores/embedded", JSON, r#"{"reads_percent":101}"#),
        400,
        "invalid_parameter",
    ),
    (("DELETE", "/v1/admin/stores/{name}", "/v1/admin/stores/x", &[], ""), 404, "not_found"),
    (("DELETE", "/v1/admin/stores/{name}", "/v1/admin/stores/embedded", &[], ""), 409, "store_takes_reads"),
    (("DELETE", "/v1/admin/instances/{id}", "/v1/admin/instances/x", &[], ""), 404, "not_found"),
    // Nobody has reported: that is no problem, but an answer.
    (("GET", "/health", "/health", &[], ""), 503, ""),
];

#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_is_refused_as_documented() {
    let served = Served::start().await;
    for ((method, template, path, headers, body), status, code) in SAD {
        let answer = served.ask(method, path, headers, *body).await;
        assert_eq!((answer.status, answer.code().as_str()), (*status, *code), "{method} {path} {body}");
        served.check(method, template, &answer);
    }
    // What is too large.
    let points = format!("[{}{{}}]", "{},".repeat(10_000));
    let answer = served.ask("POST", "/v1/points", JSON, points).await;
    assert_eq!((answer.status, answer.code().as_str()), (413, "batch_too_large"));
    served.check("POST", "/v1/points", &answer);
    for (method, template, path) in [
        ("POST", "/v1/admin/stores", "/v1/admin/stores"),
        ("PATCH", "/v1/admin/stores/{name}", "/v1/admin/stores/embedded"),
    ] {
        let answer = served.ask(method, path, JSON, " ".repeat(17 << 10)).await;
        assert_eq!((answer.status, answer.code().as_str()), (413, "body_too_large"), "{method}");
        served.check(method, template, &answer);
    }
    let long = "x".repeat(40_000);
    for operation in served.document.operations() {
        let path = served.path(operation.path);
        let answer = served.ask(&operation.method, &path, &[("x-long", long.as_str())], "").await;
        assert_eq!((answer.status, answer.code().as_str()), (431, "malformed_request"), "{}", operation.path);
        served.check(&operation.method, operation.path, &answer);
    }
}
