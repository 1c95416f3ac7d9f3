//! Whether two lists of rules say the same, asked once for all identities.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use weft_core::model::NumericIdentity;
use weft_core::policy::http::HttpRule;
use weft_core::policy::{PeerRule, PeerSet};

/// The rules of a port.
type Rules = Arc<[PeerRule]>;

/// What was found out about lists of rules, by their addresses: there are as
/// many entries as peers, and pods of equal labels share their lists.
#[derive(Debug, Default)]
pub(super) struct Agreements(HashMap<(usize, usize), Known>);

/// The lists stay as long as their addresses are remembered.
#[derive(Debug)]
struct Known {
    agreement: Agreement,
    _lists: (Rules, Rules),
}

impl Agreements {
    /// Whether the rules `there` say of an identity what those `here` say.
    pub(super) fn agree(&mut self, identity: NumericIdentity, there: &Rules, here: &Rules) -> bool {
        if Arc::ptr_eq(there, here) {
            return true;
        }
        let lists = (there.as_ptr().addr(), here.as_ptr().addr());
        let known = self.0.entry(lists).or_insert_with(|| Known {
            agreement: Agreement::between(there, here),
            _lists: (there.clone(), here.clone()),
        });
        known.agreement.holds(identity)
    }
}

/// Where two lists of rules say the same; never where they do not. It takes
/// time by the lists' lengths, not by their product.
#[derive(Debug)]
struct Agreement {
    /// What they say of everybody.
    everybody: bool,
    /// The peers of whom they say different things.
    differing: HashSet<NumericIdentity>,
    /// They do for entries for any peer.
    any: bool,
}

impl Agreement {
    fn between(there: &[PeerRule], here: &[PeerRule]) -> Self {
        let mut words = HashMap::new();
        let [there, here] = [there, here].map(|rules| Said::of(rules, &mut words));
        let named = there.named.keys().chain(here.named.keys());
        let differ = |id: &&NumericIdentity| there.named.get(id) != here.named.get(id);
        Self {
            everybody: there.everybody == here.everybody,
            differing: named.filter(differ).copied().collect(),
            any: there.does_for(&here),
        }
    }

    fn holds(&self, identity: NumericIdentity) -> bool {
        match identity {
            NumericIdentity::UNKNOWN => self.any,
            _ => self.everybody && !self.differing.contains(&identity),
        }
    }
}

/// What a rule says, less of whom and where it stands: a number for each
/// different thing, and whether it denies.
type Word = (usize, bool);

/// What rules say, in their order.
#[derive(Default)]
struct Said {
    everybody: Vec<Word>,
    /// With how much was said of everybody before.
    named: HashMap<NumericIdentity, Vec<(usize, Word)>>,
}

impl Said {
    fn of<'r>(rules: &'r [PeerRule], words: &mut HashMap<(bool, &'r [HttpRule]), usize>) -> Self {
        let mut said = Self::default();
        for rule in rules {
            let next = words.len();
            let number = *words.entry((rule.deny, &rule.http)).or_insert(next);
            let word = (number, rule.deny);
            match &rule.peers {
                PeerSet::Any => said.everybody.push(word),
                PeerSet::These(these) => {
                    let place = (said.everybody.len(), word);
                    for id in these.iter() {
                        said.named.entry(*id).or_default().push(place);
                    }
                }
            }
        }
        said
    }

    /// Whether these rules allow nobody more than those `here`, and everybody
    /// what all may. Peers come and go with every pod; that an identity is not
    /// named there yet denies it for a moment, no more.
    fn does_for(&self, here: &Self) -> bool {
        let [there, all] = [self, here].map(|one| one.everybody.iter().collect::<HashSet<_>>());
        let may = |word: &Word| word.1 || all.contains(word);
        let named = |(id, said): (&NumericIdentity, &Vec<(usize, Word)>)| {
            let own = here.named.get(id).into_iter().flatten();
            let own: HashSet<_> = own.map(|(_, word)| word).collect();
            said.iter().all(|(_, word)| may(word) || own.contains(word))
        };
        self.everybody.iter().all(may)
            && all.iter().all(|word| there.contains(word))
            && self.named.iter().all(named)
    }
}
