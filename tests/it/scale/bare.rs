//! A client that does with plain commands what many do: the control beside the store, in the same run.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use geotrail::model::{Point, Position};

use crate::harness::redis::RedisServer;

/// Points in a pipeline.
const PIPELINE: usize = 1_000;
/// Members of one GEOADD: more cost no less.
const MEMBERS: usize = 100;

/// A connection.
pub(super) struct Bare {
    stream: TcpStream,
    out: Vec<u8>,
    expected: usize,
}

impl Bare {
    pub(super) fn connect(server: &RedisServer) -> Self {
        let stream = TcpStream::connect(server.address()).expect("the server is there");
        stream.set_nodelay(true).expect("it is a socket");
        Self { stream, out: Vec::new(), expected: 0 }
    }

    /// Adds a command to the pipeline.
    fn command<'a>(&mut self, words: impl IntoIterator<Item = &'a str>) {
        let words: Vec<&str> = words.into_iter().collect();
        write!(self.out, "*{}\r\n", words.len()).expect("memory takes all");
        for word in words {
            write!(self.out, "${}\r\n{word}\r\n", word.len()).expect("memory takes all");
        }
        self.expected += 1;
    }

    /// Sends the pipeline and reads every reply.
    fn flush(&mut self) {
        self.stream.write_all(&std::mem::take(&mut self.out)).expect("it takes them");
        let mut reader = Replies { stream: &mut self.stream, buffer: Vec::new(), at: 0 };
        for _ in 0..std::mem::take(&mut self.expected) {
            reader.skip();
        }
    }

    /// Everything an hour needs but the newest winning: who is where, who was there, when, and a track; expiries once a
    /// pipeline. 100 members a command.
    pub(super) fn write(&mut self, points: &[Point]) {
        for pipeline in points.chunks(PIPELINE) {
            for points in pipeline.chunks(MEMBERS) {
                let ids: Vec<&str> = points.iter().map(|point| point.driver.as_str()).collect();
                let lons: Vec<String> =
                    points.iter().map(|point| format!("{:.7}", point.fix.position.lon())).collect();
                let lats: Vec<String> =
                    points.iter().map(|point| format!("{:.7}", point.fix.position.lat())).collect();
                let times: Vec<String> = points.iter().map(|point| point.fix.ts.as_ms().to_string()).collect();
                let places = (0..points.len()).flat_map(|n| [lons[n].as_str(), lats[n].as_str(), ids[n]]);
                self.command(["GEOADD", "positions"].into_iter().chain(places));
                self.command(["SADD", "drivers"].into_iter().chain(ids.iter().copied()));
                let seen = (0..points.len()).flat_map(|n| [times[n].as_str(), ids[n]]);
                self.command(["ZADD", "seen", "GT"].into_iter().chain(seen));
            }
            for key in ["positions", "drivers", "seen"] {
                self.command(["EXPIRE", key, "180000"]);
            }
            for point in pipeline {
                let key = format!("track:{}", point.driver);
                self.command(["APPEND", &key, "sixteen bytes ..."]);
            }
            self.flush();
        }
    }

    /// One GEOADD a point, ten in a pipeline: what the slow log has of commands of one member is the machine's.
    pub(super) fn write_one_by_one(&mut self, points: &[Point]) {
        for pipeline in points.chunks(10) {
            for Point { driver, fix } in pipeline {
                let (lon, lat) = (format!("{:.7}", fix.position.lon()), format!("{:.7}", fix.position.lat()));
                self.command(["GEOADD", "positions", &lon, &lat, driver.as_str()]);
            }
            self.flush();
        }
    }

    /// Lets each of `keys` expire at a moment of its own within so many seconds from now.
    pub(super) fn expire_within(&mut self, keys: &[String], seconds: u64) {
        for (slice, keys) in keys.chunks(PIPELINE).enumerate() {
            for (number, key) in keys.iter().enumerate() {
                let after_ms = 1_000 + (slice * 7_919 + number * 104_729) as u64 % (seconds * 1_000);
                self.command(["PEXPIRE", key, &after_ms.to_string()]);
            }
            self.flush();
        }
    }

    /// How long a PING takes.
    pub(super) fn ping(&mut self) -> Duration {
        let begun = Instant::now();
        self.command(["PING"]);
        self.flush();
        begun.elapsed()
    }

    pub(super) fn geosearch(&mut self, centre: Position, radius_m: f64) {
        let (lon, lat) = (format!("{:.7}", centre.lon()), format!("{:.7}", centre.lat()));
        let radius = radius_m.to_string();
        self.command([
            "GEOSEARCH",
            "positions",
            "FROMLONLAT",
            &lon,
            &lat,
            "BYRADIUS",
            &radius,
            "m",
            "ASC",
            "COUNT",
            "10",
            "WITHDIST",
        ]);
        self.flush();
    }

    /// ZRANGE of 250 by index and GEOPOS of the same, through the whole fleet.
    pub(super) fn list(&mut self, points: &[Point]) {
        for (page, points) in points.chunks(250).enumerate() {
            let (from, to) = ((page * 250).to_string(), (page * 250 + 249).to_string());
            self.command(["ZRANGE", "positions", &from, &to]);
            let ids = points.iter().map(|point| point.driver.as_str());
            self.command(["GEOPOS", "positions"].into_iter().chain(ids));
            self.flush();
        }
    }
}

/// What comes back, of which only the end matters.
struct Replies<'a> {
    stream: &'a mut TcpStream,
    buffer: Vec<u8>,
    at: usize,
}

impl Replies<'_> {
    fn skip(&mut self) {
        let line = self.line();
        let number = || std::str::from_utf8(&line[1..]).expect("text").parse::<i64>().expect("a number");
        match line[0] {
            b'+' | b':' => {}
            b'$' => {
                let length = number();
                if length >= 0 {
                    self.take(length as usize + 2);
                }
            }
            b'*' => (0..number()).for_each(|_| self.skip()),
            _ => panic!("{}", String::from_utf8_lossy(&line)),
        }
    }

    fn line(&mut self) -> Vec<u8> {
        loop {
            let rest = &self.buffer[self.at..];
            if let Some(end) = rest.windows(2).position(|pair| pair == b"\r\n") {
                let line = rest[..end].to_vec();
                self.at += end + 2;
                return line;
            }
            self.more();
        }
    }

    fn take(&mut self, count: usize) {
        while self.buffer.len() - self.at < count {
            self.more();
        }
        self.at += count;
    }

    fn more(&mut self) {
        self.buffer.drain(..self.at);
        self.at = 0;
        let mut some = [0; 16_384];
        let count = self.stream.read(&mut some).expect("it answers");
        assert!(count > 0, "the server hung up");
        self.buffer.extend_from_slice(&some[..count]);
    }
}
