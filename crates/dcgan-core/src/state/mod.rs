//! A training state: named arrays, with their digest.
//!
//! Copying a state to a newcomer, hashing it, saving it and updating it are loops over slices, and no tensor library's way
//! of keeping parameters matters to anyone but the model.

pub mod digest;
mod layout;
pub mod values;

use std::any::Any;
use std::ops::Range;
use std::sync::{Arc, OnceLock};

pub use layout::{Layout, TensorInfo};

use crate::ids::Digest;

/// Numbers of a tensor that are replaced at once: a few such blocks stay in any cache.
const BLOCK_VALUES: usize = 1024;

/// A training state. A copy shares all tensors until one of the two is changed.
#[derive(Clone, Debug)]
pub struct State {
    layout: Arc<Layout>,
    tensors: Vec<StateTensor>,
    /// The first tensor that was to be changed and had other values than those that were hashed.
    found_damaged: Option<usize>,
}

#[derive(Clone, Debug)]
struct StateTensor {
    values: Arc<Vec<f32>>,
    /// None if it was written to since it was last hashed.
    digest: Option<Digest>,
    /// What was made of the values; empty if it was written to since.
    derived: OnceLock<Arc<dyn Any + Send + Sync>>,
}

impl StateTensor {
    fn is_damaged(&self) -> bool {
        self.digest.is_some_and(|digest| digest != digest::of_values(&self.values))
    }
}

impl State {
    /// A state of zeros.
    pub fn zeros(layout: Arc<Layout>) -> Self {
        let zeros = |info: &TensorInfo| Arc::new(vec![0.0; info.len()]);
        let tensor =
            |info| StateTensor { values: zeros(info), digest: None, derived: OnceLock::new() };
        let tensors = layout.tensors().iter().map(tensor).collect();
        Self { layout, tensors, found_damaged: None }
    }

    /// Names and shapes.
    pub fn layout(&self) -> &Arc<Layout> {
        &self.layout
    }

    /// The values of tensor `index`.
    pub fn tensor(&self, index: usize) -> &[f32] {
        &self.tensors[index].values
    }

    /// The values of tensor `index`, to be changed.
    pub fn tensor_mut(&mut self, index: usize) -> &mut [f32] {
        if self.tensors[index].is_damaged() {
            self.found_damaged.get_or_insert(index);
        }
        let StateTensor { values, digest, derived } = &mut self.tensors[index];
        (*digest, *derived) = (None, OnceLock::new());
        Arc::<Vec<f32>>::make_mut(values)
    }

    /// Gives tensors of one length the values that `make` makes of theirs, block by block: it is given the block's place
    /// and its values, and appends the new ones. Old and new values are hashed while they are in the cache.
    ///
    /// # Panics
    /// If `make` appends another number of values than it was given.
    pub fn replace<const N: usize>(
        &mut self,
        indices: [usize; N],
        mut make: impl FnMut(Range<usize>, [&[f32]; N], &mut [Vec<f32>; N]),
    ) {
        let tensors = indices.map(|index| self.tensor(index));
        let len = tensors.first().map_or(0, |values| values.len());
        let mut new = [(); N].map(|()| Vec::with_capacity(len));
        let mut hashes = [(); N].map(|()| [digest::Running::default(), digest::Running::default()]);
        for start in (0..len).step_by(BLOCK_VALUES) {
            let block = start..len.min(start + BLOCK_VALUES);
            make(block.clone(), tensors.map(|values| &values[block.clone()]), &mut new);
            for (([old, made], values), new) in hashes.iter_mut().zip(tensors).zip(&new) {
                old.add(&values[block.clone()]);
                made.add(&new[block.clone()]);
            }
        }
        for ((index, values), [old, made]) in indices.into_iter().zip(new).zip(hashes) {
            assert_eq!(values.len(), self.tensor(index).len(), "a tensor keeps its shape");
            if self.tensors[index].digest.is_some_and(|digest| digest != old.digest()) {
                self.found_damaged.get_or_insert(index);
            }
            let digest = Some(made.digest());
            self.tensors[index] =
                StateTensor { values: Arc::new(values), digest, derived: OnceLock::new() };
        }
    }

    /// What `make` makes of the values of tensor `index`, such as combinations of weights: made once, by whoever needs it
    /// first, and kept until the values change.
    ///
    /// # Panics
    /// If something of another type was made of it.
    pub fn derived<T: Any + Send + Sync>(
        &self,
        index: usize,
        make: impl FnOnce(&[f32]) -> T,
    ) -> Arc<T> {
        let StateTensor { values, derived, .. } = &self.tensors[index];
        let kept = derived.get_or_init(|| Arc::new(make(values)));
        Arc::clone(kept).downcast().expect("a tensor has one use")
    }

    /// The digest of every tensor's digest, sorted by name. Only tensors that were changed are hashed again.
    pub fn digest(&mut self) -> Digest {
        let digest = |tensor: &mut StateTensor| {
            *tensor.digest.get_or_insert_with(|| digest::of_values(&tensor.values))
        };
        digest::of_digests(self.tensors.iter_mut().map(digest).collect::<Vec<_>>())
    }

    /// The name of the first of these tensors whose values are not those that were hashed: memory forgets a bit now and
    /// then.
    pub fn first_damaged(&self, indices: impl IntoIterator<Item = usize>) -> Option<&str> {
        let damaged = indices.into_iter().find(|&index| self.tensors[index].is_damaged());
        damaged.map(|index| self.layout.tensors()[index].name.as_str())
    }

    /// The name of the first tensor that was changed although its values were not those that were hashed: nothing that
    /// was made of them is to be used.
    pub fn found_damaged(&self) -> Option<&str> {
        self.found_damaged.map(|index| self.layout.tensors()[index].name.as_str())
    }

    /// The numbers of all tensors.
    pub fn all(&self) -> Range<usize> {
        0..self.tensors.len()
    }

    /// The name of the first tensor in which two states of one layout differ.
    pub fn first_difference(&self, other: &Self) -> Option<&str> {
        let bits = |tensor: &StateTensor| {
            tensor.values.iter().map(|value| value.to_bits()).collect::<Vec<_>>()
        };
        let mut tensors = self.tensors.iter().zip(&other.tensors).zip(self.layout.tensors());
        tensors
            .find(|((mine, theirs), _)| bits(mine) != bits(theirs))
            .map(|(_, info)| info.name.as_str())
    }

    /// Changes a bit and says nothing, as bad memory does. For tests of who notices.
    #[doc(hidden)]
    pub fn flip_a_bit(&mut self, place: usize) {
        let index = place % self.tensors.len();
        let values = Arc::<Vec<f32>>::make_mut(&mut self.tensors[index].values);
        let element = place / self.layout.tensors().len() % values.len();
        let value = &mut values[element];
        *value = f32::from_bits(value.to_bits() ^ 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> State {
        State::zeros(Arc::new(Layout::new([
            ("b".to_owned(), vec![2, 3]),
            ("a".to_owned(), vec![4]),
        ])))
    }

    #[test]
    fn tensors_are_found_by_name_and_do_not_overlap() {
        let mut state = state();
        let [a, b] = ["a", "b"].map(|name| state.layout().find(name).unwrap());
        assert_eq!(state.layout().find("c"), None);
        state.tensor_mut(a).fill(1.0);
        state.tensor_mut(b).fill(2.0);
        assert_eq!((state.tensor(a), state.tensor(b)), (&[1.0; 4][..], &[2.0; 6][..]));
        state.replace([b], |_, [b], [new]| new.extend(b.iter().map(|value| value + 1.0)));
        assert_eq!((state.tensor(a), state.tensor(b)), (&[1.0; 4][..], &[3.0; 6][..]));
    }

    #[test]
    fn a_digest_follows_every_change() {
        let mut state = state();
        let zeros = state.digest();
        state.tensor_mut(1)[5] = -0.0;
        let negative_zero = state.digest();
        assert_ne!(zeros, negative_zero, "a digest sees bits, not values");
        state.tensor_mut(1)[5] = 0.0;
        assert_eq!(state.digest(), zeros);
        assert_eq!(state.clone().digest(), zeros);
    }

    #[test]
    fn what_is_derived_from_a_tensor_lasts_until_it_changes() {
        let mut state = state();
        let sum = |state: &State| *state.derived(0, |values| values.iter().sum::<f32>());
        assert_eq!(sum(&state), 0.0);
        state.tensor_mut(1)[0] = 1.0;
        assert_eq!(*state.derived::<f32>(0, |_| unreachable!("the other tensor changed")), 0.0);
        let before = state.clone();
        state.tensor_mut(0)[0] = 1.0;
        assert_eq!((sum(&state), sum(&before)), (1.0, 0.0));
    }

    #[test]
    fn blocks_make_the_whole() {
        let len = 2 * BLOCK_VALUES + 5;
        let layout = Layout::new(["a", "b"].map(|name| (name.to_owned(), vec![len])));
        let mut state = State::zeros(Arc::new(layout));
        state.replace([1, 0], |block, [_, _], [b, a]| {
            a.extend(block.clone().map(|n| n as f32));
            b.extend(block.map(|n| n as f32 + 1.0));
        });
        let expected =
            [0.0, 1.0].map(|first| (0..len).map(|n| n as f32 + first).collect::<Vec<_>>());
        assert_eq!([state.tensor(0), state.tensor(1)], expected.each_ref().map(|values| &**values));
        let digests = expected.map(|values| digest::of_values(&values));
        assert_eq!(state.digest(), digest::of_digests(digests));
    }

    #[test]
    fn a_flipped_bit_is_noticed_where_it_is() {
        let mut state = state();
        state.digest();
        let before = state.clone();
        assert_eq!(
            (state.first_damaged(state.all()), state.first_difference(&before)),
            (None, None)
        );
        state.flip_a_bit(1);
        assert_eq!((state.first_damaged(state.all()), state.first_damaged([0])), (Some("b"), None));
        assert_eq!(state.first_difference(&before), Some("b"));
        assert_eq!(before.first_damaged(before.all()), None, "a copy is on its own");
        state.tensor_mut(0)[0] = 1.0;
        assert_eq!(state.found_damaged(), None);
        state.replace([1], |_, [b], [new]| new.extend(b));
        assert_eq!((state.found_damaged(), before.found_damaged()), (Some("b"), None));
    }

    #[test]
    fn a_digest_is_the_digest_of_the_tensors_digests() {
        let mut state = state();
        let tensors = [digest::of_values(&[0.0; 4]), digest::of_values(&[0.0; 6])];
        assert_eq!(state.digest(), digest::of_digests(tensors));
    }
}
