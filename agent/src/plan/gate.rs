//! Keeps a redirect out of the kernel until the proxy has the rules for it.
//!
//! A connection that reaches a proxy without rules for its port would pass
//! unjudged, if the rules of its other end brought it there. So an entry that
//! newly redirects waits until every snapshot that the proxy may be running has
//! the same rules for it: the one that it acknowledged last, and all that were
//! published since. For a short while its traffic is treated as before, which
//! spares what is allowed a gap; then, or at once where that takes more entries
//! than an endpoint may have, the entry goes in with a port that stands for
//! "closed", and its traffic is dropped until the proxy is there.
//!
//! Filters are like rules in that. And what is redirected already waits for those
//! of its filters that must not be left out.

mod agreement;
mod coverage;
mod filters;
mod meanwhile;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::iter;
use std::sync::Arc;
use std::time::{Duration, Instant};

use weft_core::policy::{Bounds, PortPolicy};
use weft_datapath::{CLOSED_PORT, PolicyEntry, Verdict};

use agreement::Agreements;
pub use coverage::Coverage;
use meanwhile::meanwhile;

use super::filters::Chain;

/// How long traffic may be treated as before. Within what a revocation may
/// take.
pub(crate) const PATIENCE: Duration = Duration::from_millis(80);
/// Snapshots that are remembered; a proxy further behind counts as new.
const REMEMBERED: usize = 32;

/// How long a pod that is new to the proxy is not called ready.
const INTRODUCTION: Duration = Duration::from_secs(1);

/// What the kernel is to hold of an endpoint right now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Gated {
    /// These entries; all that is wanted when `complete`.
    Write {
        /// The entries.
        entries: Vec<PolicyEntry>,
        /// Whether they are what is wanted. If not, some are closed.
        complete: bool,
    },
    /// These entries, which are what is wanted, save that traffic that would
    /// newly go to the proxy is treated as before.
    Hold {
        /// The entries.
        entries: Vec<PolicyEntry>,
        /// When to ask again at the latest.
        until: Instant,
    },
}

/// What the proxy is to do with what an endpoint's entries redirect.
#[derive(Debug, Clone, Copy, Default)]
pub struct Judged<'a> {
    /// By which rules it judges.
    pub ports: &'a [PortPolicy],
    /// Which filters requests meet.
    pub chains: &'a [Chain],
}

/// A snapshot that was published.
#[derive(Debug)]
struct Published {
    number: u64,
    version: String,
    coverage: Arc<Coverage>,
}

/// What [`meanwhile`] was asked last, and its answer: pods of equal labels ask
/// the same.
#[derive(Debug)]
struct Answer {
    asked: [Vec<PolicyEntry>; 3],
    answer: Option<Vec<PolicyEntry>>,
}

/// What the proxy is known to hold.
#[derive(Debug)]
pub struct Gate {
    /// Entries that an endpoint may have.
    room: usize,
    /// The last ones, in order.
    published: VecDeque<Published>,
    connected: bool,
    /// The proxy knows no filters: it would pass requests by them in silence.
    filterless: bool,
    acked: Option<Arc<Coverage>>,
    /// The last publication that the proxy has answered for. Later ones may be
    /// in force as well, whether or not it said so.
    answered: u64,
    waiting: BTreeMap<u32, Instant>,
    introduced: BTreeMap<u32, Instant>,
    agreements: Agreements,
    answer: Option<Answer>,
}

impl Default for Gate {
    fn default() -> Self {
        Self::bounded(&Bounds::default())
    }
}

impl Gate {
    /// Nothing is known yet; an endpoint may have what these bounds say.
    pub fn bounded(bounds: &Bounds) -> Self {
        Self {
            room: bounds.entries,
            published: VecDeque::new(),
            connected: false,
            filterless: false,
            acked: None,
            answered: 0,
            waiting: BTreeMap::new(),
            introduced: BTreeMap::new(),
            agreements: Agreements::default(),
            answer: None,
        }
    }

    /// A snapshot was published, as the one of this number. The same number
    /// again is the same snapshot.
    pub fn published(&mut self, number: u64, version: &str, coverage: Coverage) {
        if self
            .published
            .back()
            .is_some_and(|last| last.number == number)
        {
            return;
        }
        if self.published.len() == REMEMBERED {
            self.published.pop_front();
        }
        self.published.push_back(Published {
            number,
            version: version.to_owned(),
            coverage: Arc::new(coverage),
        });
    }

    /// What the proxy says that it runs from and has stored, and the number of
    /// the last publication that it has answered for.
    pub fn proxy(&mut self, connected: bool, acked: &str, answered: u64) {
        self.connected = connected;
        self.answered = answered;
        let mut known = self.published.iter().rev();
        let known = known.find(|known| known.version == acked);
        self.acked = known.map(|known| Arc::clone(&known.coverage));
    }

    /// Whether the proxy puts filters in force, if it ever said.
    pub fn filters(&mut self, supported: Option<bool>) {
        self.filterless = supported == Some(false);
    }

    /// What to write for an endpoint that is to have these entries and, in the
    /// proxy, these rules and filters. In the kernel are the entries `held`: none
    /// when it is not attached yet.
    pub fn check(
        &mut self,
        endpoint: u32,
        wanted: &[PolicyEntry],
        judged: Judged<'_>,
        held: Option<&[PolicyEntry]>,
        now: Instant,
    ) -> Gated {
        let held = held.unwrap_or_default();
        let redirected = redirects(held);
        let mut complete = true;
        let mut early = Vec::new();
        let mut entries = wanted.to_vec();
        let mut agreements = std::mem::take(&mut self.agreements);
        for entry in &mut entries {
            match self.ask(endpoint, entry, judged, &redirected, &mut agreements) {
                Way::Open => {}
                Way::Early => early.push(*entry),
                Way::Lost => {
                    complete = false;
                    entry.verdict = Verdict::Redirect(CLOSED_PORT);
                }
            }
        }
        self.agreements = agreements;
        if early.is_empty() {
            self.waiting.remove(&endpoint);
            return Gated::Write { entries, complete };
        }
        // A proxy that is away will not answer soon: nothing to wait for.
        let until = *self.waiting.entry(endpoint).or_insert(now + PATIENCE);
        if self.connected
            && now < until
            && let Some(entries) = self.meanwhile(&entries, &early, held)
        {
            return Gated::Hold { entries, until };
        }
        let early: BTreeSet<Key> = early.iter().map(key).collect();
        for entry in &mut entries {
            if early.contains(&key(entry)) {
                entry.verdict = Verdict::Redirect(CLOSED_PORT);
            }
        }
        Gated::Write {
            entries,
            complete: false,
        }
    }

    fn meanwhile(
        &mut self,
        wanted: &[PolicyEntry],
        early: &[PolicyEntry],
        held: &[PolicyEntry],
    ) -> Option<Vec<PolicyEntry>> {
        let asked = [wanted, early, held];
        if let Some(last) = &self.answer
            && asked == last.asked.each_ref().map(Vec::as_slice)
        {
            return last.answer.clone();
        }
        let answer = meanwhile(wanted, early, held, self.room);
        self.answer = Some(Answer {
            asked: asked.map(<[_]>::to_vec),
            answer: answer.clone(),
        });
        answer
    }

    /// Whether the proxy knows this pod, or need not be waited for: it would
    /// refuse the first requests of a pod that it has not heard of.
    ///
    /// # Errors
    /// When it does not: the time until which to wait.
    pub fn introduced(&mut self, endpoint: u32, now: Instant) -> Result<(), Instant> {
        let known = self.acked.as_ref();
        if !self.connected || known.is_some_and(|acked| acked.knows(endpoint)) {
            return Ok(());
        }
        let until = *self
            .introduced
            .entry(endpoint)
            .or_insert(now + INTRODUCTION);
        if now < until { Err(until) } else { Ok(()) }
    }

    /// Forgets endpoints that are gone, and what only pods of one pass share.
    pub fn retain(&mut self, endpoints: impl Fn(u32) -> bool) {
        self.agreements = Agreements::default();
        self.answer = None;
        self.waiting.retain(|endpoint, _| endpoints(*endpoint));
        self.introduced.retain(|endpoint, _| endpoints(*endpoint));
    }

    fn ask(
        &self,
        endpoint: u32,
        entry: &PolicyEntry,
        judged: Judged<'_>,
        redirected: &BTreeSet<(Key, u16)>,
        agreements: &mut Agreements,
    ) -> Way {
        let Verdict::Redirect(port) = entry.verdict else {
            return Way::Open;
        };
        // Closed for good, not for the time being.
        if port == CLOSED_PORT {
            return Way::Open;
        }
        let Judged { ports, chains } = judged;
        if self.filterless && filters::fails_closed(chains, entry) {
            return Way::Lost;
        }
        // What the kernel redirects already is the proxy's business, whichever
        // of its rules it has: no snapshot was published since without any. But
        // it may have come back with an older one, or know nothing yet of a filter
        // that must not be left out.
        let known = redirected.contains(&(key(entry), port));
        let Some(states) = self.states() else {
            return if known { Way::Open } else { Way::Early };
        };
        let mut way = Way::Open;
        for state in states {
            if known && !state.has_rules(endpoint, entry) {
                return Way::Lost;
            }
            let right = match known {
                true => state.has_filters(endpoint, entry, chains),
                false => {
                    state.judges(endpoint, entry, ports, agreements)
                        && state.filters_alike(endpoint, entry, chains)
                }
            };
            if !right {
                way = Way::Early;
            }
        }
        way
    }

    /// The snapshots that the proxy may be running; none when that is not
    /// known.
    fn states(&self) -> Option<impl Iterator<Item = &Coverage>> {
        let acked = self.acked.as_deref()?;
        let oldest = self.published.front()?;
        let later = self.published.iter();
        let later = later.filter(|one| one.number > self.answered);
        (oldest.number <= self.answered + 1)
            .then(|| iter::once(acked).chain(later.map(|one| &*one.coverage)))
    }
}

/// What is to be done about an entry.
enum Way {
    /// It may be written.
    Open,
    /// It newly redirects to a proxy that may not have its rules, or has a new
    /// filter.
    Early,
    /// It redirects, and the proxy has lost its rules or knows no filters.
    Lost,
}

/// Direction, identity, protocol, port and bits of the port.
type Key = (u8, u32, u8, u16, u8);

fn key(entry: &PolicyEntry) -> Key {
    (
        entry.direction as u8,
        entry.identity,
        entry.protocol,
        entry.port,
        entry.port_bits,
    )
}

/// The entries that redirect, and where to.
fn redirects(entries: &[PolicyEntry]) -> BTreeSet<(Key, u16)> {
    let redirect = |entry: &PolicyEntry| match entry.verdict {
        Verdict::Redirect(port) => Some((key(entry), port)),
        _ => None,
    };
    entries.iter().filter_map(redirect).collect()
}

#[cfg(test)]
mod tests;
