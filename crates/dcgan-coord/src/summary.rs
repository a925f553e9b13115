//! `dcgan-coord summary`: describes both networks, layer by layer.

use std::fmt::Write;

use dcgan_core::spec::networks::{DISCRIMINATOR, GENERATOR, LayerKind, LayerSpec, NetworkSpec};

use crate::args::SummaryFormat;

/// Describes both networks, as text or as a graph.
pub(crate) fn render(format: SummaryFormat) -> String {
    match format {
        SummaryFormat::Text => text(),
        SummaryFormat::Dot => dot(),
    }
}

/// Tables of layers, output shapes and parameters.
fn text() -> String {
    // Writing to a string cannot fail, so the results are ignored here and below.
    let mut out = String::new();
    for network in [GENERATOR, DISCRIMINATOR] {
        let _ = writeln!(out, "{}", network.name);
        let _ = writeln!(out, "  {:<28}{:<18}{:>10}", "layer", "output", "parameters");
        let _ = writeln!(out, "  {:<28}{:<18}{:>10}", "input", shape(network.input), 0);
        for (input, layer) in network.with_inputs() {
            let (shape, parameters) = (shape(layer.output), layer.parameters(input));
            let _ = writeln!(out, "  {:<28}{shape:<18}{parameters:>10}", title(layer));
        }
        // The running statistics of batch normalization are parameters that nothing trains.
        let trained: usize = network
            .tensors()
            .iter()
            .filter(|tensor| tensor.trained)
            .map(|tensor| tensor.len())
            .sum();
        let total = network.parameters();
        let fixed = total - trained;
        let _ =
            writeln!(out, "  {total} parameters: {trained} trained, {fixed} running statistics\n");
    }
    let total = GENERATOR.parameters() + DISCRIMINATOR.parameters();
    let _ = writeln!(out, "both: {total} parameters");
    out
}

/// A graph in the language of Graphviz, which draws it with
/// `dcgan-coord summary --format dot | dot -Tsvg > networks.svg`.
fn dot() -> String {
    let mut out = String::from("digraph dcgan {\n  node [shape=box, fontname=\"sans-serif\"];\n");
    for network in [GENERATOR, DISCRIMINATOR] {
        write_cluster(&mut out, &network);
    }
    let _ = writeln!(
        out,
        "  generator_{} -> discriminator_0 [label=\"fakes\"];",
        GENERATOR.layers.len()
    );
    out.push_str("}\n");
    out
}

/// Writes one network as a box of connected layers.
fn write_cluster(out: &mut String, network: &NetworkSpec) {
    let name = network.name;
    let _ = writeln!(out, "  subgraph cluster_{name} {{\n    label=\"{name}\";");
    let _ = writeln!(out, "    {name}_0 [label=\"input\\n{}\"];", shape(network.input));
    for (index, layer) in network.layers.iter().enumerate() {
        let (from, to) = (index, index + 1);
        let _ = writeln!(
            out,
            "    {name}_{to} [label=\"{}\\n{}\"];",
            title(layer),
            shape(layer.output)
        );
        let _ = writeln!(out, "    {name}_{from} -> {name}_{to};");
    }
    out.push_str("  }\n");
}

/// A shape as `rows x columns x channels`, as in Keras. A vector has only its length.
fn shape([channels, rows, columns]: [usize; 3]) -> String {
    if (rows, columns) == (1, 1) {
        channels.to_string()
    } else {
        format!("{rows} x {columns} x {channels}")
    }
}

/// The name of a layer, if it has one, and its kind.
fn title(layer: &LayerSpec) -> String {
    let kind = match layer.kind {
        LayerKind::Dense => "dense".to_owned(),
        LayerKind::Conv { stride } => format!("conv 3x3 stride {stride}"),
        LayerKind::BatchNorm => "batch norm".to_owned(),
        LayerKind::Upsample => "upsample x2".to_owned(),
        LayerKind::Relu => "ReLU".to_owned(),
        LayerKind::LeakyRelu => "LeakyReLU 0.2".to_owned(),
        LayerKind::Tanh => "tanh".to_owned(),
        LayerKind::Reshape => "reshape".to_owned(),
        LayerKind::AveragePool => "global average pool".to_owned(),
    };
    if layer.name.is_empty() || layer.name == kind {
        kind
    } else {
        format!("{} ({kind})", layer.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_counts_the_parameters_that_keras_counts() {
        let text = text();
        for line in [
            "  conv3 (conv 3x3 stride 1)   28 x 28 x 64           73792",
            "  326113 parameters: 325601 trained, 512 running statistics",
            "  93697 parameters: 93249 trained, 448 running statistics",
            "both: 419810 parameters",
        ] {
            assert!(text.lines().any(|found| found == line), "{line:?} is not in\n{text}");
        }
    }

    #[test]
    fn a_graph_has_an_edge_into_every_layer() {
        let edges = dot().matches(" -> ").count();
        assert_eq!(edges, GENERATOR.layers.len() + DISCRIMINATOR.layers.len() + 1);
    }
}
