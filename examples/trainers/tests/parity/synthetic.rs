//! Weights and images by a rule of integers, which `make.py` follows too: both sides have the same numbers, and no file does.
//!
//! Shared by `tests/parity.rs` and by the library's own tests, each of which uses a part.
#![allow(dead_code, reason = "each user needs a part")]

/// Names and shapes of a network's tensors.
pub type Shapes = Vec<(String, Vec<usize>)>;

/// `count` numbers k / 1024 with whole k in -1024..1024: exact in f16.
pub fn uniform(name: &str, count: usize) -> Vec<f32> {
    let seed = name.bytes().fold(0x811C_9DC5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    let number = |at: usize| {
        let mut x = (at as u32).wrapping_mul(0x9E37_79B1).wrapping_add(seed);
        x = (x ^ (x >> 15)).wrapping_mul(0x85EB_CA6B);
        x = (x ^ (x >> 13)).wrapping_mul(0xC2B2_AE35);
        x ^= x >> 16;
        ((x >> 21) as i32 - 1024) as f32 / 1024.0
    };
    (0..count).map(number).collect()
}

/// A tensor's values: linear weights of LPIPS are not negative, other matrices and kernels keep the scale through a ReLU to
/// a power of two, biases are small, and factors are near 1.
pub fn values(name: &str, shape: &[usize]) -> Vec<f32> {
    let values = uniform(name, shape.iter().product());
    let scaled = |factor: f32| values.iter().map(move |value| value * factor);
    if name.contains(".lin") {
        return values.iter().map(|value| value.abs()).collect();
    }
    match shape {
        [_] if name.ends_with("weight") || name.ends_with("gamma") => scaled(0.125).map(|value| 1.0 + value).collect(),
        [_] => scaled(0.125).collect(),
        [_, rest @ ..] => {
            let fan_in: usize = rest.iter().product();
            let mut halvings = 0;
            while 6 << (2 * halvings) < fan_in {
                halvings += 1;
            }
            scaled(0.5_f32.powi(halvings)).collect()
        }
        [] => values,
    }
}

fn conv(shapes: &mut Shapes, name: &str, shape: [usize; 4]) {
    shapes.push((format!("{name}.weight"), shape.to_vec()));
    shapes.push((format!("{name}.bias"), vec![shape[0]]));
}

/// SqueezeNet v1.1 with the names of Caffe or of torchvision.
pub fn squeezenet(caffe: bool) -> Shapes {
    let mut shapes = Shapes::new();
    conv(&mut shapes, if caffe { "conv1" } else { "features.0" }, [64, 3, 3, 3]);
    let fires = [
        (3, 64, 16, 64),
        (4, 128, 16, 64),
        (6, 128, 32, 128),
        (7, 256, 32, 128),
        (9, 256, 48, 192),
        (10, 384, 48, 192),
        (11, 384, 64, 256),
        (12, 512, 64, 256),
    ];
    for (at, (number, input, squeeze, expand)) in fires.into_iter().enumerate() {
        let (fire, part) =
            if caffe { (format!("fire{}/", at + 2), "squeeze1x1") } else { (format!("features.{number}."), "squeeze") };
        conv(&mut shapes, &format!("{fire}{part}"), [squeeze, input, 1, 1]);
        conv(&mut shapes, &format!("{fire}expand1x1"), [expand, squeeze, 1, 1]);
        conv(&mut shapes, &format!("{fire}expand3x3"), [expand, squeeze, 3, 3]);
    }
    shapes
}

/// VGG16's convolutions with torchvision's names.
pub fn vgg16() -> Shapes {
    let numbers = [0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28];
    let widths = [64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512];
    let mut shapes = Shapes::new();
    let mut input = 3;
    for (number, width) in numbers.into_iter().zip(widths) {
        conv(&mut shapes, &format!("features.{number}"), [width, input, 3, 3]);
        input = width;
    }
    shapes
}

/// AlexNet's convolutions with torchvision's names.
pub fn alexnet() -> Shapes {
    let mut shapes = Shapes::new();
    conv(&mut shapes, "features.0", [64, 3, 11, 11]);
    conv(&mut shapes, "features.3", [192, 64, 5, 5]);
    conv(&mut shapes, "features.6", [384, 192, 3, 3]);
    conv(&mut shapes, "features.8", [256, 384, 3, 3]);
    conv(&mut shapes, "features.10", [256, 256, 3, 3]);
    shapes
}

/// The linear weights of LPIPS for one network.
pub fn linear(prefix: &str) -> Shapes {
    let widths: &[usize] = match prefix {
        "vgg" => &[64, 128, 256, 512, 512],
        "alex" => &[64, 192, 384, 256, 256],
        _ => &[64, 128, 256, 384, 384, 512, 512],
    };
    let shape = |(at, &width): (usize, &usize)| (format!("{prefix}.lin{at}.weight"), vec![1, width, 1, 1]);
    widths.iter().enumerate().map(shape).collect()
}

/// A small vision tower of CLIP with the names of Hugging Face or of OpenAI: 2 layers of 128, patches of 8 at 24 px, 48 outputs.
pub fn clip(huggingface: bool) -> Shapes {
    let mut shapes = Shapes::new();
    let mut add = |theirs: &str, openai: &str, shape: &[usize]| {
        shapes.push((if huggingface { theirs } else { openai }.to_owned(), shape.to_vec()));
    };
    add("vision_model.embeddings.class_embedding", "visual.class_embedding", &[128]);
    add("vision_model.embeddings.patch_embedding.weight", "visual.conv1.weight", &[128, 3, 8, 8]);
    add("vision_model.embeddings.position_embedding.weight", "visual.positional_embedding", &[10, 128]);
    for tensor in ["weight", "bias"] {
        add(&format!("vision_model.pre_layrnorm.{tensor}"), &format!("visual.ln_pre.{tensor}"), &[128]);
        add(&format!("vision_model.post_layernorm.{tensor}"), &format!("visual.ln_post.{tensor}"), &[128]);
    }
    for layer in 0..2 {
        let (theirs, openai) =
            (format!("vision_model.encoder.layers.{layer}"), format!("visual.transformer.resblocks.{layer}"));
        for tensor in ["weight", "bias"] {
            let shape = |outputs: usize, inputs: usize| {
                if tensor == "bias" { vec![outputs] } else { vec![outputs, inputs] }
            };
            for part in [1, 2] {
                add(&format!("{theirs}.layer_norm{part}.{tensor}"), &format!("{openai}.ln_{part}.{tensor}"), &[128]);
            }
            if huggingface {
                for part in ["q", "k", "v"] {
                    add(&format!("{theirs}.self_attn.{part}_proj.{tensor}"), "", &shape(128, 128));
                }
            } else {
                add("", &format!("{openai}.attn.in_proj_{tensor}"), &shape(384, 128));
            }
            for (part, same, [outputs, inputs]) in [
                ("self_attn.out_proj", "attn.out_proj", [128, 128]),
                ("mlp.fc1", "mlp.c_fc", [256, 128]),
                ("mlp.fc2", "mlp.c_proj", [128, 256]),
            ] {
                add(
                    &format!("{theirs}.{part}.{tensor}"),
                    &format!("{openai}.{same}.{tensor}"),
                    &shape(outputs, inputs),
                );
            }
        }
    }
    add("visual_projection.weight", "visual.proj", if huggingface { &[48, 128] } else { &[128, 48] });
    shapes
}
