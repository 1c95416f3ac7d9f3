//! Queues of exchanges: nearly always of one, now and then of many.

use std::collections::VecDeque;

/// A queue whose first needs no memory of its own.
#[derive(Debug)]
pub(super) struct Queue<T> {
    first: Option<T>,
    rest: VecDeque<T>,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self {
            first: None,
            rest: VecDeque::new(),
        }
    }
}

impl<T> Queue<T> {
    pub(super) fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    pub(super) fn len(&self) -> usize {
        usize::from(self.first.is_some()) + self.rest.len()
    }

    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = &T> {
        self.first.iter().chain(&self.rest)
    }

    pub(super) fn push_back(&mut self, one: T) {
        match self.first {
            None => self.first = Some(one),
            Some(_) => self.rest.push_back(one),
        }
    }

    pub(super) fn push_front(&mut self, one: T) {
        if let Some(second) = self.first.replace(one) {
            self.rest.push_front(second);
        }
    }

    pub(super) fn pop_front(&mut self) -> Option<T> {
        let next = self.rest.pop_front();
        std::mem::replace(&mut self.first, next)
    }

    /// Those from `at` on.
    pub(super) fn split_off(&mut self, at: usize) -> Self {
        let mut behind = Self::default();
        match at {
            0 => std::mem::swap(self, &mut behind),
            at if at < self.len() => {
                behind.rest = self.rest.split_off(at - 1);
                behind.first = behind.rest.pop_front();
            }
            _ => {}
        }
        behind
    }

    /// All of `others`, behind those that are here.
    pub(super) fn append(&mut self, mut others: Self) {
        if self.is_empty() {
            *self = others;
            return;
        }
        self.rest.extend(others.first.take());
        self.rest.append(&mut others.rest);
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::Queue;

    /// What is in it, each time with what a queue of the standard library has.
    fn both(queue: &Queue<u32>, model: &VecDeque<u32>) {
        assert!(queue.iter().eq(model), "{queue:?} {model:?}");
        assert_eq!(queue.len(), model.len());
        assert_eq!(queue.is_empty(), model.is_empty());
        assert_eq!(queue.iter().last(), model.back());
    }

    #[test]
    fn it_is_a_queue() {
        // Every sequence of six of these operations.
        for mut operations in 0..6_u32.pow(6) {
            let (mut queue, mut model) = (Queue::default(), VecDeque::new());
            for number in 0..6 {
                match operations % 6 {
                    0 => {
                        queue.push_back(number);
                        model.push_back(number);
                    }
                    1 => {
                        queue.push_front(number);
                        model.push_front(number);
                    }
                    2 => assert_eq!(queue.pop_front(), model.pop_front()),
                    3 => {
                        let behind = queue.split_off(1);
                        let wanted = model.split_off(model.len().min(1));
                        both(&behind, &wanted);
                        let mut front = Queue::default();
                        front.push_back(number);
                        front.append(behind);
                        queue.append(front);
                        model.push_back(number);
                        model.extend(wanted);
                    }
                    4 => {
                        let behind = queue.split_off(2);
                        both(&behind, &model.split_off(model.len().min(2)));
                    }
                    _ => {
                        let all = queue.split_off(0);
                        both(&all, &model);
                        queue.append(all);
                    }
                }
                both(&queue, &model);
                operations /= 6;
            }
            queue.clear();
            both(&queue, &VecDeque::new());
        }
    }
}
