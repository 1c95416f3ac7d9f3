//! The exchanges that are in an instance.

use crate::exchange::Exchange;
use crate::types::{ContextId, Side};

/// One of them. `X` is what an ABI keeps beside.
pub(crate) struct Context<X> {
    pub(crate) exchange: Option<Box<dyn Exchange>>,
    /// The message that the running event is of, or the event that asked for what it is about.
    pub(crate) side: Side,
    pub(crate) request: Message,
    pub(crate) response: Message,
    /// The filter has answered it.
    pub(crate) replied: bool,
    /// Bytes of headers that the filter wrote.
    pub(crate) written: usize,
    /// Fetches and timers that it waits for.
    pub(crate) waiting: Vec<Waiting>,
    pub(crate) extra: X,
}

/// How far one of its messages is.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Message {
    /// Bytes of its body that are held by whoever drives the filter.
    pub(crate) held: usize,
    /// Nothing of it follows.
    pub(crate) ended: bool,
    /// It is held until the filter decides.
    pub(crate) waits: bool,
    /// All of it may pass, without another call.
    pub(crate) passed: bool,
}

impl<X> Context<X> {
    pub(crate) const fn message(&mut self, side: Side) -> &mut Message {
        match side {
            Side::Request => &mut self.request,
            Side::Response => &mut self.response,
        }
    }
}

/// Something that was asked for and has not come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Waiting {
    pub(crate) id: u64,
    pub(crate) fetch: bool,
}

impl<X: Default> Default for Context<X> {
    fn default() -> Self {
        Self {
            exchange: None,
            side: Side::Request,
            request: Message::default(),
            response: Message::default(),
            replied: false,
            written: 0,
            waiting: Vec::new(),
            extra: X::default(),
        }
    }
}

struct Place<X> {
    generation: u32,
    context: Option<Context<X>>,
}

/// All of them. A number is the place and how often it was used before, so that what comes late
/// for one exchange never meets another.
pub(crate) struct Contexts<X> {
    instance: Context<X>,
    places: Vec<Place<X>>,
    free: Vec<u32>,
    open: usize,
}

impl<X: Default> Contexts<X> {
    pub(crate) fn new() -> Self {
        Self {
            instance: Context::default(),
            places: Vec::new(),
            free: Vec::new(),
            open: 0,
        }
    }

    pub(crate) const fn open(&self) -> usize {
        self.open
    }

    pub(crate) fn insert(&mut self) -> ContextId {
        let index = self.free.pop().unwrap_or_else(|| {
            self.places.push(Place {
                generation: 0,
                context: None,
            });
            // The limit of contexts is far below.
            u32::try_from(self.places.len() - 1).unwrap_or(u32::MAX)
        });
        let place = &mut self.places[index as usize];
        place.context = Some(Context::default());
        self.open += 1;
        id(place.generation, index)
    }

    pub(crate) fn remove(&mut self, id: ContextId) -> Option<Context<X>> {
        let index = index(id)?;
        let place = self.places.get_mut(index as usize)?;
        if self::id(place.generation, index) != id {
            return None;
        }
        let context = place.context.take()?;
        place.generation = place.generation.wrapping_add(1);
        self.free.push(index);
        self.open -= 1;
        Some(context)
    }

    pub(crate) fn get(&self, id: ContextId) -> Option<&Context<X>> {
        let Some(index) = index(id) else {
            return Some(&self.instance);
        };
        let place = self.places.get(index as usize)?;
        match self::id(place.generation, index) == id {
            true => place.context.as_ref(),
            false => None,
        }
    }

    pub(crate) fn get_mut(&mut self, id: ContextId) -> Option<&mut Context<X>> {
        let Some(index) = index(id) else {
            return Some(&mut self.instance);
        };
        let place = self.places.get_mut(index as usize)?;
        match self::id(place.generation, index) == id {
            true => place.context.as_mut(),
            false => None,
        }
    }

    /// The context that has a place now.
    pub(crate) fn at(&self, index: u32) -> Option<ContextId> {
        let place = self.places.get(index as usize)?;
        place.context.as_ref()?;
        Some(id(place.generation, index))
    }

    /// All that are here, but for the instance itself.
    pub(crate) fn ids(&self) -> impl Iterator<Item = ContextId> {
        let indices = 0..u32::try_from(self.places.len()).unwrap_or(u32::MAX);
        indices.filter_map(|index| self.at(index))
    }
}

/// The place of a context; none for the instance itself.
pub(crate) fn index(id: ContextId) -> Option<u32> {
    // The lower half, which is one more than the place.
    u32::try_from(id.0 & u64::from(u32::MAX))
        .ok()?
        .checked_sub(1)
}

fn id(generation: u32, index: u32) -> ContextId {
    ContextId(u64::from(generation) << 32 | (u64::from(index) + 1))
}

#[cfg(test)]
mod tests {
    use super::Contexts;
    use crate::types::ContextId;

    #[test]
    fn a_number_never_means_two_exchanges() {
        let mut contexts = Contexts::<()>::new();
        let first = contexts.insert();
        let other = contexts.insert();
        assert_ne!(first, other);
        assert!(contexts.remove(first).is_some());
        let second = contexts.insert();
        assert_eq!(super::index(first), super::index(second), "the same place");
        assert!(contexts.get(first).is_none());
        assert!(contexts.get_mut(first).is_none());
        assert!(contexts.remove(first).is_none());
        assert!(contexts.get(second).is_some());
        assert_eq!(contexts.open(), 2);
    }

    #[test]
    fn the_instance_is_always_there() {
        let mut contexts = Contexts::<()>::new();
        assert!(contexts.get(ContextId::INSTANCE).is_some());
        assert!(contexts.remove(ContextId::INSTANCE).is_none());
        assert!(contexts.get(ContextId(7)).is_none());
        assert_eq!(contexts.open(), 0);
    }

    #[test]
    fn all_can_be_told() {
        let mut contexts = Contexts::<()>::new();
        let ids = [contexts.insert(), contexts.insert(), contexts.insert()];
        contexts.remove(ids[1]);
        let there: Vec<_> = contexts.ids().collect();
        assert_eq!(there, [ids[0], ids[2]]);
        assert_eq!(contexts.open(), 2);
    }
}
