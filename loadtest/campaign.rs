//! A whole run: for each fleet the servers are started and filled, then each mix is driven at each contender in turn, so
//! that a machine that drifts drifts for all of them.
//!
//! Never here: how requests are timed (`schedule`), how figures look (`report`, `plot`).

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

use super::caller::{Address, page};
use super::fleet::Fleet;
use super::mix::{Ask, Mix, Traffic};
use super::options::{Options, Peer, Store};
use super::report::{Costs, Line};
use super::schedule::{Schedule, Target, drive};
use super::servers::{Server, Usage, family_cpu_us, usage};
use super::tally::Tally;
use super::{knee, postgis};

/// Bringing a fleet in may take so long, and a store may need so long for what is in the journal.
const FILL_WITHIN: Duration = Duration::from_mins(2);
const FILL_CONNECTIONS: usize = 4;
const FILL_BATCH: usize = 1_000;
/// A rate is only held if the store has everything so soon after the last answer.
const CAUGHT_UP_WITHIN: Duration = Duration::from_secs(2);
const LOOK_EVERY: Duration = Duration::from_millis(20);
const PAGE_WITHIN: Duration = Duration::from_secs(5);

/// Somebody who is driven.
struct Contender {
    name: String,
    address: Address,
    /// The service, if it is one.
    service: Option<Server>,
    /// The Redis behind it, or that it is.
    redis: Option<Server>,
    /// The process that it is, if that was not started here.
    pid: Option<u32>,
}

/// Runs everything that `options` ask for, with `service` as the service and `under` as the place for its data, and
/// `tells` of each run as it ends.
pub(crate) async fn run(
    options: &Options,
    service: &Path,
    under: &Path,
    mut tells: impl FnMut(&Line) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    for drivers in &options.drivers {
        let fleet = Arc::new(Fleet::new(*drivers));
        let mut contenders = vec![Contender::geotrail(options.store, service, under)?];
        for peer in &options.peers {
            contenders.push(Contender::peer(*peer, options, under)?);
        }
        for contender in &contenders {
            contender.fill(&fleet).await.with_context(|| format!("{} cannot be filled", contender.name))?;
        }
        for mix in &options.mixes {
            for contender in &contenders {
                if contender.service.is_some() || mix.suits_peers() {
                    let told = contender.measure(options, *mix, &fleet).await;
                    tells(&told.with_context(|| format!("{mix:?} at {}", contender.name))?)?;
                }
            }
        }
    }
    Ok(())
}

impl Contender {
    fn geotrail(store: Store, binary: &Path, under: &Path) -> anyhow::Result<Self> {
        let redis = if store == Store::Redis { Some(Server::redis(under)?) } else { None };
        let url =
            redis.as_ref().map_or_else(|| "embedded".to_owned(), |redis| format!("redis://{}", redis.address()));
        let service = Server::geotrail(binary, under, &url)?;
        let name = if redis.is_some() { "geotrail redis" } else { "geotrail embedded" };
        let address = Address::Geotrail(service.address());
        Ok(Self { name: name.to_owned(), address, service: Some(service), redis, pid: None })
    }

    fn peer(peer: Peer, options: &Options, under: &Path) -> anyhow::Result<Self> {
        let pid = options.peer_pid;
        Ok(match peer {
            Peer::Redis => {
                let redis = Server::redis(under)?;
                let address = Address::Redis(redis.address());
                Self { name: "plain redis".into(), address, service: None, redis: Some(redis), pid: None }
            }
            Peer::Tile38 => {
                let address = options.peer_addr.context("--peer-addr says where Tile38 is")?;
                let address = Address::Tile38(address);
                Self { name: "tile38".into(), address, service: None, redis: None, pid }
            }
            Peer::Postgis => {
                let config = options.peer_url.clone().context("--peer-url says where PostGIS is")?;
                let address = Address::Postgis(config);
                Self { name: "postgis".into(), address, service: None, redis: None, pid }
            }
        })
    }

    fn target(&self, fleet: &Arc<Fleet>, connections: usize) -> Target {
        Target { address: self.address.clone(), fleet: fleet.clone(), connections }
    }

    /// Brings everybody in, and waits until the store has them.
    async fn fill(&self, fleet: &Arc<Fleet>) -> anyhow::Result<()> {
        if let Address::Postgis(config) = &self.address {
            postgis::make_table(config).await?;
        }
        let drivers = fleet.len();
        let count = drivers.div_ceil(FILL_BATCH) as u64;
        let schedule = Schedule { count, gap: Duration::ZERO, patience: FILL_WITHIN, comes_back: true };
        let ask = move |number: u64| {
            let first = number as usize * FILL_BATCH;
            Ask::Report { first, count: FILL_BATCH.min(drivers - first), round: 0 }
        };
        let tally = drive(&self.target(fleet, FILL_CONNECTIONS), schedule, ask).await?;
        if tally.good < count {
            bail!("of {count} batches {} were taken; {:?}", tally.good, tally.errors);
        }
        if self.caught_up(FILL_WITHIN).await?.is_none() {
            bail!("its store does not follow");
        }
        if let Address::Postgis(config) = &self.address {
            postgis::settle(config).await?;
        }
        Ok(())
    }

    /// One mix: at its rate, or at every rate of the search for the highest.
    async fn measure(&self, options: &Options, mix: Mix, fleet: &Arc<Fleet>) -> anyhow::Result<Line> {
        let rate = options.rate.unwrap_or_else(|| mix.usual_rate());
        let mut begun = 0;
        let Some(limit_ms) = options.limit_ms else {
            return Ok(self.one_run(options, mix, fleet, rate, &mut begun).await?.0);
        };
        let (mut best, mut last, mut steps) = (None, None, 0);
        let rate = knee::find(rate, async |rate| {
            let (line, caught_up) = self.one_run(options, mix, fleet, rate, &mut begun).await?;
            let holds = caught_up && line.errors.is_empty() && line.latency_ms.p99 <= limit_ms;
            eprintln!("  {rate:8.0}/s: p99 {:.2} ms{}", line.latency_ms.p99, if holds { "" } else { ", too much" });
            steps += 1;
            if holds {
                best = Some(line.clone());
            }
            last = Some(line);
            anyhow::Ok(holds)
        });
        let rate = rate.await?;
        let line = best.or(last).context("no rate could be tried")?;
        Ok(line.found(limit_ms, rate, steps))
    }

    /// A run, and whether the store had everything soon after it.
    async fn one_run(
        &self,
        options: &Options,
        mix: Mix,
        fleet: &Arc<Fleet>,
        rate: f64,
        begun: &mut u64,
    ) -> anyhow::Result<(Line, bool)> {
        let traffic = Traffic { mix, drivers: fleet.len(), batch: options.batch, begun: *begun };
        let (count, gap) = mix.schedule(rate, options.run(), fleet.len());
        let schedule = Schedule { count, gap, patience: mix.patience(), comes_back: mix.comes_back() };
        *begun += count;
        let connections = options.connections_of(mix);
        let before = self.costs()?;
        let tally = drive(&self.target(fleet, connections), schedule, move |number| traffic.ask(number)).await?;
        let generator = usage(std::process::id())?.cpu_us - before.generator_us;
        let caught_up = self.caught_up(FILL_WITHIN).await?;
        let costs = Costs { generator_us: generator, ..self.costs()?.since(&before) };
        let caught_up_s = caught_up.map(|after| after.as_secs_f64());
        let line = self.line(&traffic, connections, &schedule, &tally, costs, caught_up_s);
        Ok((line, caught_up.is_some_and(|after| after <= CAUGHT_UP_WITHIN)))
    }

    fn line(
        &self,
        traffic: &Traffic,
        connections: usize,
        schedule: &Schedule,
        tally: &Tally,
        costs: Costs,
        caught_up_s: Option<f64>,
    ) -> Line {
        let took = schedule.length().max(tally.until).as_secs_f64();
        let each = |us: u64, of: u64| (of > 0).then(|| us as f64 / of as f64);
        let is_ours = self.service.is_some();
        let of_server = |us: Option<u64>, of| us.and_then(|us| each(us, of));
        Line {
            at: jiff::Timestamp::now().to_string(),
            contender: self.name.clone(),
            mix: traffic.mix,
            drivers: traffic.drivers,
            connections,
            points_a_request: if traffic.mix == Mix::Ingest { traffic.batch } else { 1 },
            seconds: took,
            offered_per_s: schedule.count as f64 / schedule.length().as_secs_f64(),
            achieved_per_s: tally.good as f64 / took,
            points_per_s: tally.points as f64 / took,
            requests: tally.requests(),
            good: tally.good,
            errors: tally.errors.clone(),
            came_back: tally.came_back.clone(),
            latency_ms: tally.latency(),
            latency_ms_by_kind: tally.latency_by_kind(),
            generator_share: costs.generator_us as f64 / 1e6 / took,
            server_us_a_request: of_server(costs.server_us(is_ours), tally.good),
            server_us_a_point: of_server(costs.server_us(is_ours), tally.points)
                .filter(|_| tally.points >= tally.good),
            redis_us_a_request: of_server(costs.redis_us.filter(|_| is_ours), tally.good),
            costs,
            caught_up_s,
            knee: None,
        }
    }

    /// How long it takes until the store has everything that was acknowledged; `None`: longer than `within`.
    async fn caught_up(&self, within: Duration) -> anyhow::Result<Option<Duration>> {
        let begun = Instant::now();
        let Some(service) = &self.service else { return Ok(Some(Duration::ZERO)) };
        while begun.elapsed() < within {
            let (status, text) = page(service.address(), "/metrics", PAGE_WITHIN).await.context("no metrics")?;
            if status != 200 {
                bail!("no metrics: {status}");
            }
            let backlogs = text.lines().filter(|line| line.starts_with("geotrail_journal_backlog_points{"));
            let waiting: f64 = backlogs.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum();
            if waiting == 0.0 {
                return Ok(Some(begun.elapsed()));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(None)
    }

    fn costs(&self) -> anyhow::Result<Costs> {
        let of = |server: &Option<Server>| server.as_ref().map(Server::usage).transpose();
        let (service, redis): (Option<Usage>, Option<Usage>) = (of(&self.service)?, of(&self.redis)?);
        Ok(Costs {
            generator_us: usage(std::process::id())?.cpu_us,
            service_us: service.map(|usage| usage.cpu_us),
            redis_us: redis.map(|usage| usage.cpu_us),
            peer_us: self.pid.map(family_cpu_us).transpose()?,
            service_resident_mib: service.map(|usage| usage.resident_kib as f64 / 1_024.0),
            redis_resident_mib: redis.map(|usage| usage.resident_kib as f64 / 1_024.0),
            redis_wire_bytes: self.redis.as_ref().map(Server::wire_bytes).transpose()?,
        })
    }
}
