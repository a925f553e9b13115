//! Weights of 3 x 3 convolutions between the state's order, `[outputs, inputs, 3 x 3]`, and that of products.

/// `[outputs, inputs, 9]` to `[9, inputs, outputs]`.
pub(crate) fn taps_first(weight: &[f32], outputs: usize, inputs: usize) -> Vec<f32> {
    let mut moved = vec![0.0; weight.len()];
    for (o, of_output) in weight.chunks_exact(9 * inputs).enumerate() {
        for (c, taps) in of_output.as_chunks::<9>().0.iter().enumerate() {
            for (tap, value) in taps.iter().enumerate() {
                moved[(tap * inputs + c) * outputs + o] = *value;
            }
        }
    }
    moved
}

/// `[9, inputs, outputs]` to `[outputs, inputs, 9]`.
pub(crate) fn taps_last(moved: &[f32], outputs: usize, inputs: usize) -> Vec<f32> {
    let mut weight = vec![0.0; moved.len()];
    for (o, of_output) in weight.chunks_exact_mut(9 * inputs).enumerate() {
        for (c, taps) in of_output.as_chunks_mut::<9>().0.iter_mut().enumerate() {
            for (tap, value) in taps.iter_mut().enumerate() {
                *value = moved[(tap * inputs + c) * outputs + o];
            }
        }
    }
    weight
}

/// `[outputs, inputs, 9]` to `[outputs, 9, inputs]`, each output's part padded with zeros to `width` numbers.
pub(crate) fn inputs_last(weight: &[f32], inputs: usize, width: usize) -> Vec<f32> {
    let mut moved = vec![0.0; weight.len() / (9 * inputs) * width];
    for (of_output, to) in weight.chunks_exact(9 * inputs).zip(moved.chunks_exact_mut(width)) {
        for (c, taps) in of_output.as_chunks::<9>().0.iter().enumerate() {
            for (tap, value) in taps.iter().enumerate() {
                to[tap * inputs + c] = *value;
            }
        }
    }
    moved
}
