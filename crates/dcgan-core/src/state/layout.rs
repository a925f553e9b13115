//! The names and shapes of a state's tensors.

/// The names and shapes of a state's tensors, sorted by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    tensors: Vec<TensorInfo>,
    len: usize,
}

/// A tensor's name and shape.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// Its name, unique in the layout.
    pub name: String,
    /// Its shape, slowest dimension first.
    pub shape: Vec<usize>,
    len: usize,
}

impl TensorInfo {
    /// Its number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it has no elements.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl Layout {
    /// A layout of these (name, shape) pairs.
    ///
    /// # Panics
    /// If two tensors have the same name.
    pub fn new(tensors: impl IntoIterator<Item = (String, Vec<usize>)>) -> Self {
        let mut tensors: Vec<_> = tensors.into_iter().collect();
        tensors.sort();
        let info = |(name, shape): (String, Vec<usize>)| TensorInfo {
            len: shape.iter().product(),
            name,
            shape,
        };
        let tensors: Vec<_> = tensors.into_iter().map(info).collect();
        assert!(
            tensors.windows(2).all(|pair| pair[0].name != pair[1].name),
            "tensor names are unique"
        );
        let len = tensors.iter().map(TensorInfo::len).sum();
        Self { tensors, len }
    }

    /// The tensors, sorted by name.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// Elements of all tensors together.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The number of the tensor of that name.
    pub fn find(&self, name: &str) -> Option<usize> {
        self.tensors.binary_search_by(|tensor| tensor.name.as_str().cmp(name)).ok()
    }
}
