//! `PostGIS` as a peer: a table with a row for each driver, and an index on its place.
//!
//! Statements are prepared once a connection, and a batch is one statement, which is the cheapest form there is. As with
//! the other peers the newest place is kept and nothing else: no history, no newest-wins. How soon a commit is on disk is
//! left as the server has it. Never here: when it is asked.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use anyhow::Context as _;
use tokio_postgres::config::Host;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Config, Error, NoTls, Statement};

use super::fleet::Fleet;
use super::http::driver_id;
use super::mix::Ask;

/// The table is made anew by each run.
const TABLE: &str = "
    CREATE EXTENSION IF NOT EXISTS postgis;
    DROP TABLE IF EXISTS geotrail_loadtest;
    CREATE TABLE geotrail_loadtest (driver text PRIMARY KEY, place geography(Point, 4326) NOT NULL, seen timestamptz);
    CREATE INDEX geotrail_loadtest_place ON geotrail_loadtest USING gist (place);";
const REPORT: &str = "
    INSERT INTO geotrail_loadtest
    SELECT driver, ST_SetSRID(ST_MakePoint(lon, lat), 4326)::geography, now()
    FROM unnest($1::text[], $2::float8[], $3::float8[]) AS reported (driver, lon, lat)
    ON CONFLICT (driver) DO UPDATE SET place = excluded.place, seen = excluded.seen";
/// The centre is written out each time: the index gives rows in the order of distance from what it can take for a constant.
const NEARBY: &str = "
    SELECT driver, ST_X(place::geometry), ST_Y(place::geometry),
           ST_Distance(place, ST_SetSRID(ST_MakePoint($1, $2), 4326)::geography)
    FROM geotrail_loadtest
    WHERE ST_DWithin(place, ST_SetSRID(ST_MakePoint($1, $2), 4326)::geography, $3)
    ORDER BY place <-> ST_SetSRID(ST_MakePoint($1, $2), 4326)::geography
    LIMIT 10";

/// Where one is, as `--peer-url` says it: on this machine.
pub(crate) fn server(url: &str) -> Result<Arc<Config>, String> {
    let config: Config = url.parse().map_err(|error: Error| error.to_string())?;
    let is_here = |host: &Host| match host {
        Host::Tcp(name) => name == "localhost" || name.parse().is_ok_and(|ip: IpAddr| ip.is_loopback()),
        Host::Unix(_) => true,
    };
    let is_fine = !config.get_hosts().is_empty() && config.get_hosts().iter().all(is_here);
    let expected =
        format!("expected a server of this machine, such as postgresql://USER@{}/NAME", Ipv4Addr::LOCALHOST);
    if is_fine { Ok(Arc::new(config)) } else { Err(expected) }
}

/// A connection with its statements.
pub(crate) struct Session {
    client: Client,
    report: Statement,
    nearby: Statement,
}

impl Session {
    /// Opens a connection to a server that has the table.
    pub(crate) async fn open(config: &Config) -> Result<Self, Error> {
        let client = connect(config).await?;
        let (report, nearby) = (client.prepare(REPORT).await?, client.prepare(NEARBY).await?);
        Ok(Self { client, report, nearby })
    }

    /// Asks, and reads the answer to its end.
    pub(crate) async fn ask(&self, ask: Ask, fleet: &Fleet) -> Result<(), Error> {
        match ask {
            Ask::Report { first, count, round } => {
                let reported = first..first + count;
                let places: Vec<_> = reported.clone().map(|driver| fleet.place(driver, round)).collect();
                let ids: Vec<String> = reported.map(id).collect();
                let lons: Vec<f64> = places.iter().map(|place| degrees(place.lon_e6)).collect();
                let lats: Vec<f64> = places.iter().map(|place| degrees(place.lat_e6)).collect();
                let arguments: [&(dyn ToSql + Sync); 3] = [&ids, &lons, &lats];
                self.client.execute(&self.report, &arguments).await.map(drop)
            }
            Ask::Nearby { who, radius_m } => {
                let place = fleet.place(who, 0);
                let (lon, lat) = (degrees(place.lon_e6), degrees(place.lat_e6));
                let arguments: [&(dyn ToSql + Sync); 3] = [&lon, &lat, &f64::from(radius_m)];
                self.client.query(&self.nearby, &arguments).await.map(drop)
            }
            Ask::Backlog { .. } => unreachable!("a peer keeps no history and is spared the stampede"),
        }
    }
}

/// Makes the table.
pub(crate) async fn make_table(config: &Config) -> anyhow::Result<()> {
    let client = connect(config).await.context("PostGIS cannot be reached")?;
    client.batch_execute(TABLE).await.context("the table cannot be made in PostGIS")
}

/// What it takes to know where everybody is: after a load, as its own daemon would see to it some time later.
pub(crate) async fn settle(config: &Config) -> anyhow::Result<()> {
    let client = connect(config).await?;
    client.batch_execute("VACUUM ANALYZE geotrail_loadtest").await.context("the table cannot be analysed")
}

async fn connect(config: &Config) -> Result<Client, Error> {
    let (client, connection) = config.connect(NoTls).await?;
    // Ends with the client; what goes wrong, the next request hears.
    tokio::spawn(async { drop(connection.await) });
    Ok(client)
}

fn degrees(e6: u32) -> f64 {
    f64::from(e6) / 1e6
}

fn id(driver: usize) -> String {
    let mut out = Vec::with_capacity(16);
    driver_id(driver, &mut out);
    String::from_utf8(out).expect("an id is ASCII")
}
