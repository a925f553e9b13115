//! The names and shapes of a state's tensors.

/// The names and shapes of a state's tensors, sorted by name. A tensor's index is its place in this
/// order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    tensors: Vec<TensorInfo>,
    len: usize,
}

/// A tensor's name and shape.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// The name, unique in the layout.
    pub name: String,
    /// The shape, slowest dimension first. An empty shape is that of a single number.
    pub shape: Vec<usize>,
    len: usize,
}

impl TensorInfo {
    fn new((name, shape): (String, Vec<usize>)) -> Self {
        Self { len: shape.iter().product(), name, shape }
    }

    /// The number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Tells whether the tensor has no elements.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl Layout {
    /// Makes a layout of (name, shape) pairs, given in any order.
    ///
    /// # Panics
    /// If two tensors have the same name.
    pub fn new(tensors: impl IntoIterator<Item = (String, Vec<usize>)>) -> Self {
        let mut infos: Vec<TensorInfo> = tensors.into_iter().map(TensorInfo::new).collect();
        infos.sort_by(|a, b| a.name.cmp(&b.name));
        assert!(
            infos.windows(2).all(|pair| pair[0].name != pair[1].name),
            "tensor names are unique"
        );
        let len = infos.iter().map(TensorInfo::len).sum();
        Self { tensors: infos, len }
    }

    /// The tensors, sorted by name.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// The number of elements of all tensors together.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Tells whether no tensor has any elements.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The index of the tensor with this name.
    pub fn find(&self, name: &str) -> Option<usize> {
        self.tensors.binary_search_by(|tensor| tensor.name.as_str().cmp(name)).ok()
    }
}
