//! The state of a training: named tensors with their digest.
//!
//! Copying a state to a new worker, hashing it, saving it and updating it are loops over slices. A
//! tensor library's own parameter types would tie all of that to one model; here only the model
//! knows what the numbers mean.
//!
//! Digests also detect bad memory. Each tensor keeps the digest of the bytes that were written to
//! it, and whoever is about to use or change it can compare.

pub mod digest;
mod layout;
pub mod values;

use std::any::Any;
use std::ops::Range;
use std::sync::{Arc, OnceLock};

pub use layout::{Layout, TensorInfo};

use crate::ids::Digest;
use digest::ValuesHasher;

/// The number of elements that [`State::replace`] computes at once. Old and new values of several
/// tensors fit the first-level cache, so that hashing them costs no trip to memory.
const BLOCK_VALUES: usize = 1024;

/// The state of a training. A clone shares all tensors until one of the two is changed.
#[derive(Clone, Debug)]
pub struct State {
    layout: Arc<Layout>,
    tensors: Vec<StateTensor>,
    /// The first tensor whose values turned out, when it was changed, not to be those that were
    /// hashed.
    damaged_before_update: Option<usize>,
}

#[derive(Clone, Debug)]
struct StateTensor {
    values: Arc<Vec<f32>>,
    /// The digest of the values; `None` if they were written to since they were last hashed.
    digest: Option<Digest>,
    /// The result of [`State::derived`]; empty if there is none for these values.
    derived: OnceLock<Arc<dyn Any + Send + Sync>>,
}

impl StateTensor {
    fn new(values: Vec<f32>, digest: Option<Digest>) -> Self {
        Self { values: Arc::new(values), digest, derived: OnceLock::new() }
    }

    /// Tells whether the values differ from those that were hashed.
    fn is_damaged(&self) -> bool {
        self.digest.is_some_and(|digest| digest != digest::of_values(&self.values))
    }

    /// The digest of the values, which are hashed only if they were written to.
    fn digest(&mut self) -> Digest {
        *self.digest.get_or_insert_with(|| digest::of_values(&self.values))
    }

    /// Compares bits, so that NaN equals NaN, and 0 differs from -0.
    fn has_same_bits(&self, other: &Self) -> bool {
        let bits = self.values.iter().map(|value| value.to_bits());
        bits.eq(other.values.iter().map(|value| value.to_bits()))
    }
}

impl State {
    /// A state in which every element is zero.
    pub fn zeros(layout: Arc<Layout>) -> Self {
        let tensors = layout
            .tensors()
            .iter()
            .map(|info| StateTensor::new(vec![0.0; info.len()], None))
            .collect();
        Self { layout, tensors, damaged_before_update: None }
    }

    /// The names and shapes of the tensors.
    pub fn layout(&self) -> &Arc<Layout> {
        &self.layout
    }

    /// The indices of all tensors.
    pub fn all(&self) -> Range<usize> {
        0..self.tensors.len()
    }

    /// The values of tensor `index`.
    pub fn tensor(&self, index: usize) -> &[f32] {
        &self.tensors[index].values
    }

    /// The values of tensor `index`, for writing.
    ///
    /// The tensor is hashed first: damage must be found before the values are overwritten, because
    /// afterwards there is no digest to compare with.
    pub fn tensor_mut(&mut self, index: usize) -> &mut [f32] {
        if self.tensors[index].is_damaged() {
            self.damaged_before_update.get_or_insert(index);
        }
        let StateTensor { values, digest, derived } = &mut self.tensors[index];
        *digest = None;
        *derived = OnceLock::new();
        Arc::<Vec<f32>>::make_mut(values)
    }

    /// Computes new values for N tensors of equal length, block by block.
    ///
    /// `make` receives the range of elements in the block and the old values of each tensor in that
    /// range, and appends as many new values to each vector. Old and new values are hashed while
    /// they are in the cache, so that an update costs no second pass over the state.
    ///
    /// # Panics
    /// If `make` appends another number of values than the block has.
    pub fn replace<const N: usize>(
        &mut self,
        indices: [usize; N],
        mut make: impl FnMut(Range<usize>, [&[f32]; N], &mut [Vec<f32>; N]),
    ) {
        let old = indices.map(|index| self.tensor(index));
        let len = old.first().map_or(0, |values| values.len());
        let mut new: [Vec<f32>; N] = std::array::from_fn(|_| Vec::with_capacity(len));
        let mut old_hashers: [ValuesHasher; N] = std::array::from_fn(|_| ValuesHasher::default());
        let mut new_hashers: [ValuesHasher; N] = std::array::from_fn(|_| ValuesHasher::default());

        // Compute and hash one block of all tensors after the other.
        for start in (0..len).step_by(BLOCK_VALUES) {
            let block = start..len.min(start + BLOCK_VALUES);
            make(block.clone(), old.map(|values| &values[block.clone()]), &mut new);
            for (hasher, values) in old_hashers.iter_mut().zip(old) {
                hasher.add(&values[block.clone()]);
            }
            for (hasher, values) in new_hashers.iter_mut().zip(&new) {
                hasher.add(&values[block.clone()]);
            }
        }

        // Store the new values, and note damage in the old ones.
        let hashers = old_hashers.iter().zip(&new_hashers);
        for ((index, values), (old_hasher, new_hasher)) in indices.into_iter().zip(new).zip(hashers)
        {
            assert_eq!(values.len(), self.tensor(index).len(), "a tensor keeps its shape");
            let expected = self.tensors[index].digest;
            if expected.is_some_and(|digest| digest != old_hasher.digest()) {
                self.damaged_before_update.get_or_insert(index);
            }
            self.tensors[index] = StateTensor::new(values, Some(new_hasher.digest()));
        }
    }

    /// Computes something from the values of tensor `index`, such as repacked weights, and caches
    /// it.
    ///
    /// The first caller computes it; later callers receive the same object until the values change.
    /// A clone of the state that is made in between shares the object.
    ///
    /// # Panics
    /// If an earlier call for the same values computed another type.
    pub fn derived<T: Any + Send + Sync>(
        &self,
        index: usize,
        make: impl FnOnce(&[f32]) -> T,
    ) -> Arc<T> {
        let StateTensor { values, derived, .. } = &self.tensors[index];
        let cached = derived.get_or_init(|| Arc::new(make(values)));
        Arc::clone(cached).downcast().expect("a tensor has one use")
    }

    /// The digest of the state: that of all tensors' digests, in the order of the layout. Only
    /// tensors that were written to are hashed again.
    pub fn digest(&mut self) -> Digest {
        digest::of_digests(self.tensors.iter_mut().map(StateTensor::digest))
    }

    /// Hashes the given tensors again, and returns the name of the first whose values are not those
    /// that were hashed before, as when memory has lost a bit.
    pub fn first_damaged(&self, indices: impl IntoIterator<Item = usize>) -> Option<&str> {
        let damaged = indices.into_iter().find(|&index| self.tensors[index].is_damaged());
        damaged.map(|index| self.name(index))
    }

    /// The name of the first tensor that was damaged when it was changed. The new values were
    /// computed from damaged ones, so the state must not be used.
    pub fn damaged_before_update(&self) -> Option<&str> {
        self.damaged_before_update.map(|index| self.name(index))
    }

    /// The name of the first tensor in which two states of one layout differ by a bit.
    pub fn first_difference(&self, other: &Self) -> Option<&str> {
        let mut pairs = self.tensors.iter().zip(&other.tensors);
        let index = pairs.position(|(mine, theirs)| !mine.has_same_bits(theirs))?;
        Some(self.name(index))
    }

    fn name(&self, index: usize) -> &str {
        &self.layout.tensors()[index].name
    }

    /// Changes one bit without changing the digest, as bad memory does. For tests of the detection.
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

    /// Zeros in two tensors: `a` (index 0), `[4]`, and `b` (index 1), `[2, 3]`.
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
    fn a_derived_value_is_cached_until_its_tensor_changes() {
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
    fn a_replacement_by_blocks_gives_the_whole_tensor_and_its_digest() {
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
    fn a_flipped_bit_is_attributed_to_its_tensor() {
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
        assert_eq!(before.first_damaged(before.all()), None, "a clone does not see later changes");
        state.tensor_mut(0)[0] = 1.0;
        assert_eq!(state.damaged_before_update(), None);
        state.replace([1], |_, [b], [new]| new.extend(b));
        assert_eq!(
            (state.damaged_before_update(), before.damaged_before_update()),
            (Some("b"), None)
        );
    }

    #[test]
    fn a_digest_is_the_digest_of_the_tensors_digests() {
        let mut state = state();
        let tensors = [digest::of_values(&[0.0; 4]), digest::of_values(&[0.0; 6])];
        assert_eq!(state.digest(), digest::of_digests(tensors));
    }
}
