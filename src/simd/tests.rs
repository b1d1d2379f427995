use super::*;

/// Everything a lane can meet: signed zeros, subnormals, the extremes, infinities, NaN.
const EDGES: [f32; 18] = [
    0.0,
    -0.0,
    1.0,
    -1.0,
    1.5,
    -0.75,
    f32::MIN_POSITIVE,
    -f32::MIN_POSITIVE,
    1e-45,
    -1e-45,
    3.4e38,
    -3.4e38,
    f32::INFINITY,
    f32::NEG_INFINITY,
    f32::NAN,
    1.000_000_1,
    0.333_333_34,
    7.0,
];

fn same(a: f32, b: f32) -> bool {
    a == b || a.is_nan() && b.is_nan()
}

/// Every method of `Lanes` against the scalar one, on all pairs (and an offset third) of the edges.
struct Methods;
impl Kernel for Methods {
    type Output = usize;
    #[inline(always)]
    unsafe fn run<V: Lanes>(self) -> usize {
        let mut checked = 0;
        for (i, &a) in EDGES.iter().enumerate() {
            for (j, &b) in EDGES.iter().enumerate() {
                let c = EDGES[(i + 2 * j) % EDGES.len()];
                let mut out = [[0.0f32; 16]; 6];
                // What is kept is never NaN.
                let best = if b.is_nan() { 0.5 } else { b };
                let larger = if a > best { a } else { best };
                let scalar = [fma32(a, b, c), a - b, a * b, a / b, larger, if a > b { b } else { c }];
                // SAFETY: `run`'s caller vouches for V; 16 ≥ V::N elements behind each pointer.
                let gt = unsafe {
                    let [va, vb, vc] = [a, b, c].map(|x| V::splat(x));
                    va.mul_add(vb, vc).store(out[0].as_mut_ptr());
                    va.sub(vb).store(out[1].as_mut_ptr());
                    va.mul(vb).store(out[2].as_mut_ptr());
                    va.div(vb).store(out[3].as_mut_ptr());
                    va.max_keep(V::splat(best)).store(out[4].as_mut_ptr());
                    va.select_gt(vb, vb, vc).store(out[5].as_mut_ptr());
                    va.gt_mask(vb)
                };
                let all = (1u32 << V::N) - 1;
                assert_eq!(gt, if a > b { all } else { 0 }, "{a} {b}");
                for (method, (lanes, expected)) in out.iter().zip(scalar).enumerate() {
                    for &lane in &lanes[..V::N] {
                        assert!(same(lane, expected), "method {method} of {a}, {b}, {c}");
                        checked += 1;
                    }
                }
            }
        }
        checked
    }
}

#[test]
fn every_method_of_every_tier_equals_the_scalar_one() {
    for isa in Isa::available() {
        assert_eq!(isa.run(Methods), 6 * 18 * 18 * isa.lanes(), "{}", isa.name());
    }
}

/// Partial loads and stores touch the first `n` lanes and nothing else.
struct Partial;
impl Kernel for Partial {
    type Output = ();
    #[inline(always)]
    unsafe fn run<V: Lanes>(self) {
        let from: [f32; 16] = core::array::from_fn(|i| i as f32 + 1.0);
        for n in 1..V::N {
            let (mut full, mut part) = ([-1.0f32; 16], [-1.0f32; 16]);
            // SAFETY: `run`'s caller vouches for V; `from[16 − n..]` holds exactly n elements, `full` 16 and `part` 16 ≥ n.
            unsafe {
                let lanes = V::load_partial(from.as_ptr().add(16 - n), n);
                lanes.store(full.as_mut_ptr());
                lanes.store_partial(part.as_mut_ptr(), n);
            }
            for lane in 0..V::N {
                let value = if lane < n { from[16 - n + lane] } else { 0.0 };
                assert_eq!(full[lane], value);
                assert_eq!(part[lane], if lane < n { value } else { -1.0 });
            }
        }
    }
}

#[test]
fn partial_loads_and_stores_touch_only_their_lanes() {
    for isa in Isa::available() {
        isa.run(Partial);
    }
}

/// Every method of `Dots` against that of one lane, on words of random bytes and of extreme ones.
struct DotMethods;
impl DotKernel for DotMethods {
    type Output = ();
    #[inline(always)]
    unsafe fn run<V: Lanes, D: Dots>(self) {
        let mut rng = crate::rng::Rng::new(5, 0);
        let most = D::ROW_MAX;
        for case in 0..if cfg!(miri) { 60 } else { 1000 } {
            let mut word = || rng.next_u64() as u32;
            let codes: [u32; 16] = core::array::from_fn(|_| if case % 3 == 0 { [0, !0][case % 2] } else { word() });
            let pairs: [u32; 16] = core::array::from_fn(|_| word() & 0x7fff_7fff);
            let row = word().to_ne_bytes().map(|x| match case % 5 {
                0 => most,
                1 => -most,
                _ => (x as i8).clamp(-most, most),
            });
            let (factors, start, other) = (word() as i32 & 0x7fff_7fff, word() as i32 >> 4, word() as i32);
            let mut out = [[0i32; 16]; 4];
            // SAFETY: `run`'s caller vouches for D; 16 ≥ D::N elements behind each pointer.
            let ge = unsafe {
                let [codes, pairs] = [codes.as_ptr(), pairs.as_ptr()].map(|p| D::load(p.cast()));
                codes.store(out[0].as_mut_ptr());
                D::splat(start)
                    .dot(codes, D::splat(i32::from_ne_bytes(row.map(|x| x as u8))))
                    .store(out[1].as_mut_ptr());
                D::dot_pairs(pairs, D::splat(factors)).store(out[2].as_mut_ptr());
                codes.larger(D::splat(other)).store(out[3].as_mut_ptr());
                codes.ge_mask(D::splat(other))
            };
            for lane in 0..D::N {
                let code = codes[lane].to_ne_bytes().map(|byte| i32::from(byte) - 128 + D::BIAS);
                let sum = code.iter().zip(row).fold(start, |sum, (c, x)| sum + c * i32::from(x));
                let halves = |word: u32| [word as i16, (word >> 16) as i16].map(i32::from);
                let ([a, b], [c, d]) = (halves(pairs[lane]), halves(factors as u32));
                let code = codes[lane] as i32;
                let expected = [code, sum, a * c + b * d, code.max(other)];
                assert_eq!(out.map(|lanes| lanes[lane]), expected, "lane {lane} of case {case}");
                assert_eq!(ge >> lane & 1 == 1, code >= other, "lane {lane} of case {case}");
            }
            assert_eq!(u64::from(ge) >> D::N, 0);
            if D::MATRIX {
                check_matrices::<D>(&codes, &pairs, row, start);
            }
        }
    }
}

/// `zip`, `unzip` and `dot_matrix` on the first four words of `codes` and of `other`, and on rows made of `row`.
#[inline(always)]
fn check_matrices<D: Dots>(codes: &[u32; 16], other: &[u32; 16], row: [i8; 4], start: i32) {
    let rows: [[i8; 4]; 4] = core::array::from_fn(|k| core::array::from_fn(|j| row[(j + k) % 4]));
    let mut out = [[0i32; 4]; 5];
    // SAFETY: `run`'s caller vouches for D, which has four lanes where it has matrices.
    unsafe {
        let [a, b] = [codes, other].map(|words| D::load(words.as_ptr().cast()));
        let ([low, high], [even, odd]) = (a.zip(b), a.unzip(b));
        let product = D::splat(start).dot_matrix(a, D::load(rows.as_ptr().cast()));
        [low, high, even, odd, product].iter().zip(&mut out).for_each(|(x, out)| x.store(out.as_mut_ptr()));
    }
    let [a, b] = [codes, other].map(|words| [0, 1, 2, 3].map(|i| words[i] as i32));
    let zipped = [[a[0], b[0], a[1], b[1]], [a[2], b[2], a[3], b[3]]];
    let unzipped = [[a[0], a[2], b[0], b[2]], [a[1], a[3], b[1], b[3]]];
    assert_eq!(out[..4], [zipped, unzipped].concat());
    for (lane, &sum) in out[4].iter().enumerate() {
        let products = (0..8).map(|j| {
            let code = codes[lane / 2 * 2 + j / 4].to_ne_bytes()[j % 4];
            (i32::from(code) - 128 + D::BIAS) * i32::from(rows[lane % 2 * 2 + j / 4][j % 4])
        });
        assert_eq!(sum, start + products.sum::<i32>(), "lane {lane}");
    }
}

#[test]
fn every_dot_of_every_tier_is_the_sum_of_its_products() {
    for isa in Isa::available().filter(|_| Isa::DOTS) {
        isa.run_dots(DotMethods);
    }
}

#[test]
fn software_fma_equals_hardware_fma() {
    // libm before 0.2.16 got the first of these wrong (0x00400002).
    let x = |e: i32, m: f32| m * libm::ldexpf(1.0, e);
    let (a, b) = (x(-75, 1.0 + libm::ldexpf(1.0, -20)), x(-75, 1.0 - libm::ldexpf(1.0, -20)));
    let c = libm::ldexpf(1.0, -127) + libm::ldexpf(1.0, -149);
    assert_eq!(fma::soft_fma32(a, b, c).to_bits(), 0x0040_0001);
    let mut rng = crate::rng::Rng::new(3, 0);
    for case in 0..if cfg!(miri) { 2_000 } else { 300_000 } {
        let [a, b, c] = [(); 3].map(|()| f32::from_bits(rng.next_u64() as u32));
        // Every other time a third operand near −a·b, where cancellation makes rounding hard.
        let c = if case % 2 == 0 { c } else { -(a * b) * (1.0 + (rng.uniform() as f32 - 0.5) * 1e-6) };
        let (soft, oracle) = (fma::soft_fma32(a, b, c), libm::fmaf(a, b, c));
        assert!(same(soft, oracle), "{a:e} {b:e} {c:e}: {soft:e} {oracle:e}");
    }
}

#[test]
fn names_round_trip_and_unknown_ones_are_errors() {
    for isa in Isa::available() {
        assert_eq!(Isa::from_name(isa.name()), Ok(isa));
        assert!(Isa::NAMES.contains(&isa.name()));
    }
    assert_eq!(Isa::from_name("auto"), Ok(Isa::detect()));
    assert!(matches!(Isa::from_name("sse9"), Err(Error::Isa { .. })));
}
