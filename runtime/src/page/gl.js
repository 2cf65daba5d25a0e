// The little of WebGL 2 that the stage needs: programs, instances, the mesh of a capsule.

/**
 * @param {WebGL2RenderingContext} gl
 * @param {string} vertex
 * @param {string} fragment
 */
export function makeProgram(gl, vertex, fragment) {
  const program = gl.createProgram();
  for (const [kind, source] of /** @type {[number, string][]} */ ([[gl.VERTEX_SHADER, vertex], [gl.FRAGMENT_SHADER, fragment]])) {
    const shader = /** @type {WebGLShader} */ (gl.createShader(kind));
    gl.shaderSource(shader, `#version 300 es\nprecision highp float;\n${source}`);
    gl.compileShader(shader);
    gl.attachShader(program, shader);
  }
  gl.linkProgram(program);
  if (!gl.getProgramParameter(program, gl.LINK_STATUS) && !gl.isContextLost()) {
    const logs = (gl.getAttachedShaders(program) ?? []).map((shader) => gl.getShaderInfoLog(shader));
    throw new Error(`a shader does not compile: ${gl.getProgramInfoLog(program)} ${logs.join(" ")}`);
  }
  /** @type {Map<string, WebGLUniformLocation | null>} */
  const places = new Map();
  const uniform = (/** @type {string} */ name) => {
    if (!places.has(name)) places.set(name, gl.getUniformLocation(program, name));
    return places.get(name) ?? null;
  };
  return { program, uniform };
}

/**
 * A mesh drawn once for each entry of a buffer that changes every frame.
 * @param {WebGL2RenderingContext} gl
 * @param {Float32Array} vertices
 * @param {number[]} vertexSizes floats of each attribute, from location 0
 * @param {Uint16Array} indices
 * @param {number[]} instanceSizes floats of each attribute, from location `vertexSizes.length`
 */
export function makeInstances(gl, vertices, vertexSizes, indices, instanceSizes) {
  const array = gl.createVertexArray();
  gl.bindVertexArray(array);
  const attributes = (/** @type {number[]} */ sizes, /** @type {number} */ first, /** @type {number} */ divisor) => {
    const stride = sizes.reduce((a, b) => a + b, 0) * 4;
    let offset = 0;
    sizes.forEach((size, i) => {
      gl.enableVertexAttribArray(first + i);
      gl.vertexAttribPointer(first + i, size, gl.FLOAT, false, stride, offset);
      gl.vertexAttribDivisor(first + i, divisor);
      offset += size * 4;
    });
  };
  gl.bindBuffer(gl.ARRAY_BUFFER, gl.createBuffer());
  gl.bufferData(gl.ARRAY_BUFFER, vertices, gl.STATIC_DRAW);
  attributes(vertexSizes, 0, 0);
  gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, gl.createBuffer());
  gl.bufferData(gl.ELEMENT_ARRAY_BUFFER, indices, gl.STATIC_DRAW);
  const instances = gl.createBuffer();
  gl.bindBuffer(gl.ARRAY_BUFFER, instances);
  attributes(instanceSizes, vertexSizes.length, 1);
  gl.bindVertexArray(null);
  const floats = instanceSizes.reduce((a, b) => a + b, 0);
  return {
    /** @param {Float32Array} data */
    fill(data) {
      gl.bindBuffer(gl.ARRAY_BUFFER, instances);
      gl.bufferData(gl.ARRAY_BUFFER, data, gl.DYNAMIC_DRAW);
      this.count = data.length / floats;
    },
    count: 0,
    draw() {
      if (this.count === 0) return;
      gl.bindVertexArray(array);
      gl.drawElementsInstanced(gl.TRIANGLES, indices.length, gl.UNSIGNED_SHORT, 0, this.count);
      gl.bindVertexArray(null);
    },
  };
}

/** A capsule along +z: direction of the surface (3) and which end it belongs to (0 or 1). @param {number} around @param {number} rings of each half */
export function capsuleMesh(around, rings) {
  const vertices = [];
  const rows = 2 * rings + 2;
  for (let row = 0; row < rows; row++) {
    const end = row > rings ? 1 : 0;
    const latitude = ((row - end) / (2 * rings) - 0.5) * Math.PI;
    for (let i = 0; i < around; i++) {
      const longitude = (i / around) * 2 * Math.PI;
      vertices.push(Math.cos(latitude) * Math.cos(longitude), Math.cos(latitude) * Math.sin(longitude), Math.sin(latitude), end);
    }
  }
  const indices = [];
  for (let row = 0; row + 1 < rows; row++) {
    for (let i = 0; i < around; i++) {
      const [a, b] = [row * around + i, row * around + ((i + 1) % around)];
      indices.push(a, b, a + around, b, b + around, a + around);
    }
  }
  return { vertices: new Float32Array(vertices), indices: new Uint16Array(indices) };
}

/** A number list that grows and is used again every frame. */
export class Floats {
  data = new Float32Array(4096);
  length = 0;

  clear() {
    this.length = 0;
  }
  /** @param {...number} values */
  push(...values) {
    if (this.length + values.length > this.data.length) {
      const larger = new Float32Array(2 * this.data.length);
      larger.set(this.data);
      this.data = larger;
    }
    for (const value of values) this.data[this.length++] = value;
  }
  view() {
    return this.data.subarray(0, this.length);
  }
}
