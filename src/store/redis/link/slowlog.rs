//! Which entries of a server's slow log are new, and whose they are.
//!
//! Ids begin anew when a server is started anew. So the newest entry is remembered whole: if it is gone although
//! newer ones stand where it stood, all there is came since.
//!
//! Never here: the commands in the log, which may hold ids.

use super::command::Reply;

/// What our connections call themselves.
pub(super) const CLIENT_NAME: &str = "geotrail";
/// As many entries as are asked for; a server keeps 128 unless told otherwise.
pub(super) const ENTRIES: usize = 128;

/// How many entries came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Fresh {
    /// Of clients of our name: this instance and its like.
    pub(super) own: u64,
    /// Of all others.
    pub(super) others: u64,
}

/// The newest entry that was seen; `None` before the first look, whose entries are from before our time.
#[derive(Debug, Default)]
pub(super) struct Seen(Option<Entry>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    id: i64,
    at_s: i64,
    took_us: i64,
}

/// Stands for an empty log: every id is greater.
const NOTHING: Entry = Entry { id: -1, at_s: 0, took_us: 0 };

impl Seen {
    /// Takes what SLOWLOG GET answered, newest first. Entries that cannot be read are left out.
    pub(super) fn look(&mut self, answer: &Reply) -> Fresh {
        let entries = read(answer);
        let newest = entries.first().map(|(entry, _)| *entry);
        let Some(last) = self.0 else {
            self.0 = Some(newest.unwrap_or(NOTHING));
            return Fresh::default();
        };
        let Some(newest) = newest else { return Fresh::default() };
        let in_its_place = entries.iter().find(|(entry, _)| entry.id == last.id);
        let is_same_run = newest.id >= last.id && in_its_place.is_none_or(|(entry, _)| *entry == last);
        self.0 = Some(newest);
        let mut fresh = Fresh::default();
        for (_, is_own) in entries.iter().filter(|(entry, _)| !is_same_run || entry.id > last.id) {
            *(if *is_own { &mut fresh.own } else { &mut fresh.others }) += 1;
        }
        fresh
    }
}

/// Each entry is its id, when (s), how long (us), the command, an address, a client's name, and maybe more.
fn read(answer: &Reply) -> Vec<(Entry, bool)> {
    let Reply::List(entries) = answer else { return Vec::new() };
    let read = |entry: &Reply| {
        let Reply::List(fields) = entry else { return None };
        let number = |at: usize| fields.get(at).and_then(Reply::integer);
        let name = fields.get(5).and_then(Reply::text);
        Some((Entry { id: number(0)?, at_s: number(1)?, took_us: number(2)? }, name == Some(CLIENT_NAME)))
    };
    entries.iter().filter_map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(entries: &[(i64, i64, &'static str)]) -> Reply {
        let entry = |(id, at_s, name): &(i64, i64, &'static str)| {
            let [command, address] = [Reply::List(vec![]), Reply::Bytes("127.0.0.1:1".into())];
            let [id, at_s, took] = [*id, *at_s, 20_000].map(Reply::Integer);
            Reply::List(vec![id, at_s, took, command, address, Reply::Bytes((*name).into())])
        };
        Reply::List(entries.iter().map(entry).collect())
    }

    #[test]
    fn each_entry_counts_once_and_a_new_run_is_noticed() {
        let mut seen = Seen::default();
        let mut look = |entries: &[(i64, i64, &'static str)]| {
            let Fresh { own, others } = seen.look(&log(entries));
            (own, others)
        };
        assert_eq!(look(&[(7, 100, ""), (6, 99, "geotrail")]), (0, 0), "from before our time");
        assert_eq!(look(&[(7, 100, ""), (6, 99, "geotrail")]), (0, 0));
        assert_eq!(look(&[(9, 103, "geotrail"), (8, 102, "other"), (7, 100, "")]), (1, 1));
        assert_eq!(look(&[]), (0, 0), "emptied");
        assert_eq!(look(&[(10, 110, "geotrail")]), (1, 0), "ids go on after that");
        assert_eq!(look(&[(1, 120, ""), (0, 119, "geotrail")]), (1, 1), "started anew");
        assert_eq!(look(&[(3, 133, ""), (2, 132, ""), (1, 131, ""), (0, 130, "")]), (0, 4), "and again, busier");
        assert_eq!(look(&[(400, 140, ""), (399, 140, "")]), (0, 2), "those between are lost");
    }

    #[test]
    fn what_cannot_be_read_is_no_entry() {
        let mut seen = Seen::default();
        assert_eq!(seen.look(&log(&[])), Fresh::default());
        let odd = Reply::List(vec![Reply::Nil, Reply::List(vec![Reply::Integer(1)])]);
        assert_eq!(seen.look(&odd), Fresh::default());
        assert_eq!(seen.look(&Reply::Nil), Fresh::default());
        assert_eq!(seen.look(&log(&[(0, 1, "geotrail")])), Fresh { own: 1, others: 0 });
    }
}
