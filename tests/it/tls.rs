//! Redis over TLS: one server, a cluster, and behind sentinels. Certificates are made for each test.

use std::path::Path;
use std::process::Command;

use geotrail::store::redis::{Options, RedisStore};
use geotrail::store::{Store as _, StoreError};

use crate::harness::authority::Authority;
use crate::harness::cluster::Cluster;
use crate::harness::eventually;
use crate::harness::redis::{PASSWORD, Sentinel, free_port};
use crate::topology_node::{batch, now, options, place, point};

async fn over_tls(host: &str, port: u16, ca: Option<&Path>) -> Result<(), StoreError> {
    let url = format!("rediss://geotrail:{PASSWORD}@{host}:{port}");
    let store = RedisStore::connect(Options { ca: ca.map(Path::to_owned), ..options(url) }).await?;
    store.ping().await?;
    let point = point("driver-1", now(), place(0));
    store.apply(batch(std::slice::from_ref(&point))).await.map(|_| ())
}

pub(crate) fn has_tls() -> bool {
    let help = Command::new("redis-cli").arg("--help").output().expect("redis-cli is installed");
    let has_tls = String::from_utf8_lossy(&[help.stdout, help.stderr].concat()).contains("--tls");
    if !has_tls {
        eprintln!("SKIPPED: this Redis has no TLS");
    }
    has_tls
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_is_for_servers_that_can_show_who_they_are() {
    if !has_tls() {
        return;
    }
    let authority = tokio::task::block_in_place(Authority::new);
    let ca = authority.file("ca.pem");
    let serve = |name: &str, issuer: &str, days| {
        tokio::task::block_in_place(|| {
            authority.issue(name, issuer, days, "DNS:localhost");
            authority.server(name)
        })
    };
    let (_good, port) = serve("good", "ca", 2);
    over_tls("localhost", port, Some(&ca)).await.expect("it shows who it is");
    let refused = async |host, port, ca: Option<&Path>| match over_tls(host, port, ca).await {
        Err(StoreError::Unavailable(why)) => assert!(why.contains("TLS: invalid peer certificate"), "{why}"),
        other => panic!("{other:?}"),
    };
    refused("127.0.0.1", port, Some(&ca)).await;
    refused("localhost", port, None).await;
    refused("localhost", port, Some(&authority.file("stranger.pem"))).await;
    let (_expired, port) = serve("expired", "ca", -1);
    refused("localhost", port, Some(&ca)).await;
    let (_strange, port) = serve("strange", "stranger", 2);
    refused("localhost", port, Some(&ca)).await;

    for unusable in ["no-such-file.pem", "good.key"] {
        let outcome = over_tls("localhost", port, Some(&authority.file(unusable))).await;
        assert!(matches!(outcome, Err(StoreError::Refused(_))), "{unusable}: {outcome:?}");
    }
}

/// Puts points of many hours in, and finds them again, wherever they lie.
async fn works(url: String, authority: &Authority) {
    let options = Options { ca: Some(authority.file("ca.pem")), ..options(url) };
    let store = RedisStore::connect(options).await.expect("a good URL");
    eventually("a connection", async || store.ping().await.ok()).await;
    let points: Vec<_> =
        (0..24).map(|hours| point("driver-1", now().plus_ms(-hours * 3_600_000), place(0))).collect();
    store.apply(batch(&points)).await.expect("all are there");
    let of_a_day = (now().plus_ms(-24 * 3_600_000), now());
    let track = store.track(&points[0].driver, of_a_day.0, of_a_day.1, 100).await.expect("all are there");
    assert_eq!(track.len(), points.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_tells_where_its_servers_speak_tls() {
    if !has_tls() {
        return;
    }
    let (authority, cluster) = tokio::task::block_in_place(|| {
        let authority = Authority::new();
        authority.issue("good", "ca", 2, "IP:127.0.0.1");
        let arguments = authority.arguments("good", &[("tls-cluster", "yes")]);
        let cluster = Cluster::start_over_tls(&arguments);
        (authority, cluster)
    });
    works(cluster.url(), &authority).await;
    for server in &cluster.servers {
        assert!(!server.keys().is_empty(), "every primary has a part");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sentinels_that_speak_tls_lead_to_a_primary_that_does() {
    if !has_tls() {
        return;
    }
    let (authority, _primary, sentinel) = tokio::task::block_in_place(|| {
        let authority = Authority::new();
        authority.issue("good", "ca", 2, "IP:127.0.0.1");
        let (primary, port) = authority.server("good");
        let lines = authority.shown("good").into_iter().map(|(key, value)| format!("{key} {value}\n"));
        let sentinel = Sentinel::start_over_tls(port, free_port(), &lines.collect::<String>());
        (authority, primary, sentinel)
    });
    let port = sentinel.port();
    let url = format!("rediss-sentinel://geotrail:{PASSWORD}@127.0.0.1:{port}?sentinelServiceName=fleet");
    works(url, &authority).await;
}
