//! Layouts of 3 x 3 kernels.
//!
//! The state keeps a kernel as PyTorch does, OIHW: `[outputs, inputs, 3, 3]`. Products need the
//! inputs or the outputs as the last axis. The nine taps (H and W) stay together in row-major
//! order.

/// Moves a kernel from OIHW `[outputs, inputs, 9]` to HWIO `[9, inputs, outputs]`.
pub(crate) fn oihw_to_hwio(kernel: &[f32], outputs: usize, inputs: usize) -> Vec<f32> {
    let mut moved = vec![0.0; kernel.len()];
    for (o, of_output) in kernel.chunks_exact(9 * inputs).enumerate() {
        for (c, taps) in of_output.as_chunks::<9>().0.iter().enumerate() {
            for (tap, value) in taps.iter().enumerate() {
                moved[(tap * inputs + c) * outputs + o] = *value;
            }
        }
    }
    moved
}

/// Moves a kernel from HWIO `[9, inputs, outputs]` to OIHW `[outputs, inputs, 9]`.
pub(crate) fn hwio_to_oihw(moved: &[f32], outputs: usize, inputs: usize) -> Vec<f32> {
    let mut kernel = vec![0.0; moved.len()];
    for (o, of_output) in kernel.chunks_exact_mut(9 * inputs).enumerate() {
        for (c, taps) in of_output.as_chunks_mut::<9>().0.iter_mut().enumerate() {
            for (tap, value) in taps.iter_mut().enumerate() {
                *value = moved[(tap * inputs + c) * outputs + o];
            }
        }
    }
    kernel
}

/// Moves a kernel from OIHW `[outputs, inputs, 9]` to OHWI `[outputs, 9, inputs]`, each output's
/// part padded with zeros to `width` numbers: `[outputs, width]`.
pub(crate) fn oihw_to_ohwi(kernel: &[f32], inputs: usize, width: usize) -> Vec<f32> {
    let mut moved = vec![0.0; kernel.len() / (9 * inputs) * width];
    for (of_output, to) in kernel.chunks_exact(9 * inputs).zip(moved.chunks_exact_mut(width)) {
        for (c, taps) in of_output.as_chunks::<9>().0.iter().enumerate() {
            for (tap, value) in taps.iter().enumerate() {
                to[tap * inputs + c] = *value;
            }
        }
    }
    moved
}
