// The student network and NMF, as a worker or as a module of node. Feature maps are matrices with a row for each
// position, as NMF takes them: data (height · width, channels), row after row, in a Float32Array.

// half precision -> number
function number(half) {
  const sign = half >> 15 ? -1 : 1, exponent = half >> 10 & 31, fraction = half & 1023;
  if (exponent == 31) return fraction ? NaN : sign * Infinity;
  return sign * (exponent ? 2 ** (exponent - 25) * (1024 + fraction) : 2 ** -24 * fraction);
}

// What the weights script registers, {mean, std, tensors: {name: {shape, offset}}, halves: base64} -> layers by name.
function decoded({mean, std, tensors, halves}) {
  const text = atob(halves), bytes = new Uint8Array(text.length), layers = {};
  for (let i = 0; i < bytes.length; i++) bytes[i] = text.charCodeAt(i);
  const view = new DataView(bytes.buffer);
  const read = ({shape, offset}) => {
    const values = new Float32Array(shape.reduce((a, b) => a * b));
    for (let i = 0; i < values.length; i++) values[i] = number(view.getUint16(2 * (offset + i), true));
    return values;
  };
  for (const name of Object.keys(tensors).filter(name => name.endsWith('.weight'))) {
    const [outputs, inputs, side] = tensors[name].shape, given = read(tensors[name]), area = side * side;
    const rows = new Float32Array(given.length);  // (outputs, side · side · inputs), in the order of `patches`
    for (let o = 0; o < outputs; o++) for (let c = 0; c < inputs; c++) for (let t = 0; t < area; t++)
      rows[(o * area + t) * inputs + c] = given[(o * inputs + c) * area + t];
    const layer = name.slice(0, -'.weight'.length);
    layers[layer] = {outputs, inputs, side, panels: panels(rows, outputs), bias: read(tensors[`${layer}.bias`])};
  }
  return {mean, std, layers};
}

// --- matrix product ------------------------------------------------------------------------------------------

// The rows of a matrix, four side by side, as the innermost loop of `product` reads them. In double precision, in which
// JavaScript computes anyway, so that nothing is converted there.
function panels(rows, count) {
  const inner = rows.length / count, packed = new Float64Array(Math.ceil(count / 4) * 4 * inner);
  for (let o = 0; o < count; o++) for (let t = 0; t < inner; t++)
    packed[(o & ~3) * inner + 4 * t + (o & 3)] = rows[o * inner + t];
  return packed;
}

// X (rows, inner) times the transpose of a matrix (count, inner), given as panels: (rows, count). Two rows meet four
// columns in eight sums, which stay in registers; a tile of panels stays in the cache while all rows pass.
function product(X, packed, count) {
  const inner = packed.length / (Math.ceil(count / 4) * 4), rows = X.length / inner;
  const out = new Float32Array(rows * count), tile = Math.max(4, (1 << 14) / inner & ~3);
  for (let first = 0; first < count; first += tile) {
    for (let p = 0; p < rows; p += 2) {
      const q = Math.min(p + 1, rows - 1);
      for (let o = first; o < Math.min(first + tile, count); o += 4) {
        let x = p * inner, y = q * inner, w = o * inner, a = 0, b = 0, c = 0, d = 0, e = 0, f = 0, g = 0, h = 0;
        for (const end = w + 4 * inner; w < end; w += 4, x++, y++) {
          const first = X[x], second = X[y], w0 = packed[w], w1 = packed[w + 1], w2 = packed[w + 2], w3 = packed[w + 3];
          a += first * w0; b += first * w1; c += first * w2; d += first * w3;
          e += second * w0; f += second * w1; g += second * w2; h += second * w3;
        }
        const sums = count - o, i = p * count + o, j = q * count + o;
        out[i] = a; out[j] = e;
        if (sums > 1) { out[i + 1] = b; out[j + 1] = f; }
        if (sums > 2) { out[i + 2] = c; out[j + 2] = g; }
        if (sums > 3) { out[i + 3] = d; out[j + 3] = h; }
      }
    }
  }
  return out;
}

// --- the network: nmfcore.networks.Student -------------------------------------------------------------------

// What each position of a convolution sees, side · side · channels numbers in a row; zeros beyond the margin.
function patches({data, height, width, channels}, side, stride) {
  const padding = (side - 1) / 2, [rows, columns] = [height, width].map(n => Math.ceil(n / stride));
  if (side == 1 && stride == 1) return {data, height, width};
  const seen = new Float32Array(rows * columns * side * side * channels);
  for (let i = 0, place = 0; i < rows; i++) for (let j = 0; j < columns; j++)
    for (let k = 0; k < side; k++) for (let l = 0; l < side; l++, place += channels) {
      const y = i * stride + k - padding, x = j * stride + l - padding;
      if (y < 0 || y >= height || x < 0 || x >= width) continue;
      for (let c = 0, from = (y * width + x) * channels; c < channels; c++) seen[place + c] = data[from + c];
    }
  return {data: seen, height: rows, width: columns};
}

function convolved(maps, {outputs, side, panels, bias}, stride = 1) {
  const {data: seen, height, width} = patches(maps, side, stride), data = product(seen, panels, outputs);
  for (let i = 0; i < data.length; i += outputs) for (let o = 0; o < outputs; o++) data[i + o] += bias[o];
  return {data, height, width, channels: outputs};
}

function rectified(maps) {
  for (let i = 0; i < maps.data.length; i++) if (maps.data[i] < 0) maps.data[i] = 0;
  return maps;
}

// pixels: RGBA bytes, as a canvas gives them.
function preprocessed({pixels, width, height}, {mean, std}) {
  const data = new Float32Array(3 * width * height);
  for (let i = 0; i < width * height; i++) for (let c = 0; c < 3; c++)
    data[3 * i + c] = (pixels[4 * i + c] / 255 - mean[c]) / std[c];
  return {data, height, width, channels: 3};
}

function added(maps, branch) {
  for (let n = 0; n < maps.data.length; n++) maps.data[n] += branch.data[n];
  return rectified(maps);
}

function bottleneck(maps, layers, name) {
  const [narrow, wide, back] = [0, 2, 4].map(i => layers[`${name}.branch.${i}`]);
  return added(maps, convolved(rectified(convolved(rectified(convolved(maps, narrow)), wide)), back));
}

// Each position four times, as many of them as `height` and `width` take.
function enlarged({data, width: narrow, channels}, {height, width}) {
  const large = new Float32Array(height * width * channels);
  for (let i = 0, place = 0; i < height; i++) for (let j = 0; j < width; j++, place += channels) {
    const from = ((i >> 1) * narrow + (j >> 1)) * channels;
    large.set(data.subarray(from, from + channels), place);
  }
  return {data: large, height, width, channels};
}

// What a photograph holds as a whole, at half the resolution, is added to what each position holds.
function inContext(maps, layers, name) {
  let wide = rectified(convolved(maps, layers[`${name}.branch.0`], 2)), i = 2;
  for (; `${name}.branch.${i}.branch.0` in layers; i++) wide = bottleneck(wide, layers, `${name}.branch.${i}`);
  return added(maps, enlarged(convolved(wide, layers[`${name}.branch.${i}`]), maps));
}

// A photograph {pixels, width, height} to the activations of the last layer, 512 channels at stride 16.
function forward(photograph, network) {
  const {layers} = network;
  let maps = preprocessed(photograph, network);
  for (const i of [0, 2, 4, 6]) maps = rectified(convolved(maps, layers[`features.${i}`], 2));
  for (const i of [8, 9]) maps = bottleneck(maps, layers, `features.${i}`);
  maps = bottleneck(inContext(maps, layers, 'features.10'), layers, 'features.11');
  return rectified(convolved(maps, layers['features.12']));
}

// --- NMF -----------------------------------------------------------------------------------------------------

// One pass of HALS over the K rows of X >= 0 for min ½⟨X, G X⟩ − ⟨C, X⟩; C is transposed, (columns of X, K).
function sweep(X, G, C, K) {
  const count = X.length / K;
  for (let k = 0; k < K; k++) {
    const curvature = G[k * K + k];
    if (!(curvature > 0)) continue;  // a component without weight: its partner stays as it is
    for (let p = 0; p < count; p++) {
      let slope = C[p * K + k];
      for (let l = 0; l < K; l++) slope -= G[k * K + l] * X[l * count + p];
      X[k * count + p] = Math.max(0, X[k * count + p] + slope / curvature);
    }
  }
}

function gram(X, K) {
  return product(X, panels(X, K), K);
}

function sum(n, term) {
  let total = 0;
  for (let i = 0; i < n; i++) total += term(i);
  return total;
}

function transposed(X, rows) {
  const columns = X.length / rows, out = new Float32Array(X.length);
  for (let i = 0; i < rows; i++) for (let j = 0; j < columns; j++) out[j * rows + i] = X[i * columns + j];
  return out;
}

// Uniform numbers that a seed decides (mulberry32).
function uniform(seed, length) {
  let state = Math.imul(seed + 1, 0x9E3779B9);
  return Float32Array.from({length}, () => {
    state = state + 0x6D2B79F5 | 0;
    let t = Math.imul(state ^ state >>> 15, 1 | state);
    t = t + Math.imul(t ^ t >>> 7, 61 | t) ^ t;
    return ((t ^ t >>> 14) >>> 0) / 2 ** 32;
  });
}

// A (N, M) ≈ Uᵀ V, U (K, N) and V (K, M), by sweeps of HALS: U, then V. From the given U and V, else from uniform
// numbers, made as large as they should be. It stops when ten sweeps lessen the relative error by less than ten times
// `tolerance` of itself.
function nmf({A, N, K, seed = 0, U, V, sweeps = 300, tolerance = 1e-6}) {
  const M = A.length / N, flipped = transposed(A, N), size = sum(A.length, i => A[i] * A[i]);
  const error = (C, G) => {
    const H = gram(V, K), fit = sum(K * K, i => G[i] * H[i]);
    const cross = sum(K * M, i => C[i % M * K + (i / M | 0)] * V[i]);
    return {cross, fit, relative: size > 0 ? Math.sqrt(Math.max(0, size - 2 * cross + fit) / size) : 0};
  };
  if (U) [U, V] = [U.slice(), V.slice()];
  else {
    const numbers = uniform(seed, K * (N + M));
    [U, V] = [numbers.slice(0, K * N), numbers.slice(K * N)];
    const {cross, fit} = error(product(flipped, panels(U, K), K), gram(U, K)), scale = Math.sqrt(cross / fit);
    if (scale > 0) for (const X of [U, V]) X.forEach((x, i) => { X[i] = scale * x; });
  }
  let done = 0, relative, before = Infinity;
  while (done < sweeps) {
    sweep(U, gram(V, K), product(A, panels(V, K), K), K);
    const G = gram(U, K), C = product(flipped, panels(U, K), K);
    sweep(V, G, C, K);
    ({relative} = error(C, G));
    if (++done % 10) continue;
    if (before - relative < 10 * tolerance * relative) break;
    before = relative;
  }
  return {U, V, error: relative, sweeps: done};
}

// The largest share of A first, so that starts which find the same factors give them the same numbers.
function ordered({U, V, ...rest}, K) {
  const rows = X => Array.from({length: K}, (_, k) => X.subarray(k * X.length / K, (k + 1) * X.length / K));
  const [us, vs] = [rows(U), rows(V)], square = x => sum(x.length, i => x[i] * x[i]);
  const order = us.map((u, k) => [square(u) * square(vs[k]), k]).sort(([a], [b]) => b - a).map(([, k]) => k);
  const arranged = list => Float32Array.from(order.flatMap(k => [...list[k]]));
  return {U: arranged(us), V: arranged(vs), ...rest};
}

// Heatmaps of each photograph, K of them in turn, divided by what the factor reaches anywhere in the set.
function heatmaps(U, K, sizes) {
  const N = U.length / K, maps = sizes.map(({height, width}) => new Float32Array(K * height * width));
  for (let k = 0; k < K; k++) {
    const row = U.subarray(k * N, (k + 1) * N), peak = row.reduce((a, b) => Math.max(a, b), 0) || 1;
    let from = 0;
    for (const map of maps) {
      const area = map.length / K;
      for (let p = 0; p < area; p++) map[k * area + p] = row[from + p] / peak;
      from += area;
    }
  }
  return maps;
}

// --- a worker's errands --------------------------------------------------------------------------------------

let network, set;

const errands = {
  weights(registered) {
    network = decoded(registered);
  },
  photographs(photographs) {  // the set that is factorized from now on
    const activations = photographs.map(photograph => forward(photograph, network));
    const A = new Float32Array(sum(activations.length, i => activations[i].data.length));
    let place = 0;
    for (const {data} of activations) {
      A.set(data, place);
      place += data.length;
    }
    const sizes = activations.map(({height, width}) => ({height, width}));
    set = {A, N: A.length / activations[0].channels, sizes};
    return {sizes};
  },
  activations() {  // (N, 512), those of all photographs below each other
    return set.A;
  },
  factors({K, ...how}) {
    const result = nmf({A: set.A, N: set.N, K, ...how}), factors = how.U ? result : ordered(result, K);
    return {...factors, maps: heatmaps(factors.U, K, set.sizes), sizes: set.sizes};
  },
};

if (typeof module == 'object') module.exports = {number, decoded, panels, product, convolved, forward, nmf, heatmaps};
else onmessage = ({data: {errand, given}}) => {
  const begin = performance.now();
  try {
    const answer = errands[errand](given);
    postMessage({answer, seconds: (performance.now() - begin) / 1000});
  } catch (error) {
    postMessage({trouble: String(error)});
  }
};
