use burn::tensor::Tensor;
pub fn batch_norm(x: Tensor<4>, gamma: Tensor<1>, beta: Tensor<1>) -> (Tensor<4>, Tensor<1>, Tensor<1>) {
    let [c, n, h, w] = x.dims();
    let x = x.reshape([c, n * h * w]);
    let mean = x.clone().mean_dim(1);
    let x = x - mean.clone();
    let var = (x.clone() * x.clone()).mean_dim(1);
    let scale = gamma.reshape([c, 1]) / (var.clone() + 1e-3).sqrt();
    let y = x * scale + beta.reshape([c, 1]);
    (y.reshape([c, n, h, w]), mean.reshape([c]), var.reshape([c]))
}
