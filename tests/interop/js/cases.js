// The cases for grpc-js's client. What they send and expect is what tests/interop/messages.py says.
'use strict';

const grpc = require('@grpc/grpc-js');

const { COUNTS, ECHO_INITIAL, ECHO_TRAILING, later, payload, sizeOf } = require('./service');

const { status: Status, compressionAlgorithms: Compression } = grpc;
const LARGE_REQUEST = 271828;
const LARGE_RESPONSE = 314159;
const INPUT_SIZES = [27182, 8, 1828, 45904];
const INPUT_TOTAL = 74922;
const OUTPUT_SIZES = [31415, 9, 2653, 58979];
const COMPRESSED_INPUT_SIZES = [27182, 45904];
const COMPRESSED_OUTPUT_SIZES = [31415, 92653];
const STATUS_MESSAGE = 'test status message';
const SPECIAL_MESSAGE = '\t\ntest with whitespace\r\nand Unicode BMP ☺ and non-BMP 😈\t\n';
const TINY_TIMEOUT_MS = 1;
const PATIENCE_MS = 25000;
const CROWD_MS = 120000;
const PUSHBACK_SIZE = 64 * 1024;
const PUSHBACK_COUNT = 512;
const NEVER_US = 600000000;
const STALLED_MS = 300;
const GLANCE_MS = 20;

class CaseFailed extends Error {}

function equal(found, expected, what) {
  const [a, b] = [JSON.stringify(found), JSON.stringify(expected)];
  if (a !== b) throw new CaseFailed(`${what}: ${String(a).slice(0, 200)}, not ${String(b).slice(0, 200)}`);
}

// A channel, its stubs, and how to open others.
class Client {
  constructor(connect, settings) {
    this.settings = settings;
    this.channels = [];
    this.connect = (options) => {
      const [stub, unimplemented] = connect(options);
      this.channels.push(stub, unimplemented);
      return { stub, unimplemented };
    };
    Object.assign(this, this.connect());
  }

  close() {
    this.channels.forEach((each) => each.close());
  }
}

function options(ms = PATIENCE_MS) {
  return { deadline: Date.now() + ms };
}

// Everything that comes of a call with one response: the response or the error, the headers, and the status.
function unary(stub, method, request, { metadata = new grpc.Metadata(), ms = PATIENCE_MS } = {}) {
  return new Promise((resolve) => {
    const found = {};
    const call = stub[method](request, metadata, options(ms), (error, response) => {
      Object.assign(found, { error, response });
      if (found.status) resolve(found);
    });
    call.on('metadata', (headers) => (found.headers = headers));
    call.on('status', (status) => {
      found.status = status;
      if ('error' in found) resolve(found);
    });
  });
}

// The response of a call that must not fail.
async function answer(stub, method, request, how) {
  const { error, response } = await unary(stub, method, request, how);
  if (error) throw error;
  return response;
}

// A call that streams requests to one response.
function upload(stub) {
  const found = {};
  found.over = new Promise((resolve) => {
    found.call = stub.StreamingInputCall(new grpc.Metadata(), options(), (error, response) => resolve({ error, response }));
  });
  return found;
}

// A call that streams responses, read one at a time.
class Stream {
  constructor(call) {
    this.call = call;
    this.headers = new Promise((resolve) => call.once('metadata', resolve));
    this.status = new Promise((resolve) => call.once('status', resolve));
    call.on('error', () => {}); // the status has it
    this.responses = call[Symbol.asyncIterator]();
  }

  write(request) {
    return new Promise((resolve, reject) => this.call.write(request, (error) => (error ? reject(error) : resolve())));
  }

  async read() {
    const { done, value } = await this.responses.next();
    return done ? null : value;
  }

  async ends() {
    if (await this.read()) throw new CaseFailed('another message came');
    await this.over(Status.OK, '');
  }

  async over(code, details) {
    const status = await this.status;
    equal([status.code, code === Status.OK ? '' : status.details], [code, details], 'status of the stream');
  }
}

function duplex(client, { metadata = new grpc.Metadata(), ms = PATIENCE_MS } = {}) {
  return new Stream(client.stub.FullDuplexCall(metadata, options(ms)));
}

function largeRequest() {
  return { response_size: LARGE_RESPONSE, payload: payload(LARGE_REQUEST) };
}

function outputRequest(sizes, { send = 0, interval_us = 0 } = {}) {
  return { response_parameters: sizes.map((size) => ({ size, interval_us })), payload: send ? payload(send) : null };
}

function statusRequest(message) {
  return { response_status: { code: Status.UNKNOWN, message } };
}

async function empty_unary({ stub }) {
  equal(await answer(stub, 'EmptyCall', {}), {}, 'response');
}

async function callLarge(stub, ms = PATIENCE_MS) {
  equal(sizeOf(await answer(stub, 'UnaryCall', largeRequest(), { ms })), LARGE_RESPONSE, 'size of the response');
}

async function large_unary({ stub }) {
  await callLarge(stub);
}

async function sum(stub, sizes, total) {
  const { call, over } = upload(stub);
  sizes.forEach((size) => call.write({ payload: payload(size) }));
  call.end();
  const { error, response } = await over;
  if (error) throw error;
  equal(response.aggregated_payload_size, total, 'sum of what was written');
}

async function client_streaming({ stub }) {
  await sum(stub, INPUT_SIZES, INPUT_TOTAL);
}

async function download(stub, request) {
  const stream = new Stream(stub.StreamingOutputCall(request, new grpc.Metadata(), options()));
  const found = [];
  for (let response; (response = await stream.read()); ) found.push(sizeOf(response));
  await stream.over(Status.OK, '');
  return found;
}

async function server_streaming({ stub }) {
  equal(await download(stub, outputRequest(OUTPUT_SIZES)), OUTPUT_SIZES, 'sizes of the responses');
}

// grpc-js compresses what a channel is told to.
async function client_compressed_unary(client) {
  for (const algorithm of [Compression.gzip, Compression.deflate, Compression.identity]) {
    await callLarge(client.connect({ 'grpc.default_compression_algorithm': algorithm }).stub);
  }
}

async function client_compressed_streaming(client) {
  const { stub } = client.connect({ 'grpc.default_compression_algorithm': Compression.gzip });
  await sum(stub, COMPRESSED_INPUT_SIZES, 73086);
}

async function server_compressed_unary({ stub }) {
  for (const value of [true, false]) {
    const response = await answer(stub, 'UnaryCall', { ...largeRequest(), response_compressed: { value } });
    equal(sizeOf(response), LARGE_RESPONSE, 'size of the response');
  }
}

async function server_compressed_streaming({ stub }) {
  const request = outputRequest(COMPRESSED_OUTPUT_SIZES);
  request.response_parameters.forEach((each, index) => (each.compressed = { value: index === 0 }));
  equal(await download(stub, request), COMPRESSED_OUTPUT_SIZES, 'sizes of the responses');
}

async function ping_pong(client) {
  const stream = duplex(client);
  for (const [index, size] of OUTPUT_SIZES.entries()) {
    await stream.write(outputRequest([size], { send: INPUT_SIZES[index] }));
    equal(sizeOf(await stream.read()), size, 'size of the response');
  }
  stream.call.end();
  await stream.ends();
}

async function empty_stream(client) {
  const stream = duplex(client);
  stream.call.end();
  await stream.ends();
}

async function custom_metadata(client) {
  const metadata = new grpc.Metadata();
  metadata.set(ECHO_INITIAL, 'test_initial_metadata_value');
  metadata.set(ECHO_TRAILING, Buffer.from([0xab, 0xab, 0xab]));
  const found = await unary(client.stub, 'UnaryCall', largeRequest(), { metadata });
  metadataCame(found.headers, found.status.metadata);
  const stream = duplex(client, { metadata });
  await stream.write(outputRequest([LARGE_RESPONSE], { send: LARGE_REQUEST }));
  equal(sizeOf(await stream.read()), LARGE_RESPONSE, 'size of the response');
  stream.call.end();
  await stream.ends();
  metadataCame(await stream.headers, (await stream.status).metadata);
}

function metadataCame(headers, trailers) {
  equal(headers ? headers.get(ECHO_INITIAL) : [], ['test_initial_metadata_value'], 'initial metadata');
  equal(trailers.get(ECHO_TRAILING).map((each) => each.toString('hex')), ['ababab'], 'trailing metadata');
}

async function fails(stub, request, message) {
  const { status } = await unary(stub, 'UnaryCall', request);
  equal([status.code, status.details], [Status.UNKNOWN, message], 'status of the unary call');
}

async function status_code_and_message(client) {
  await fails(client.stub, statusRequest(STATUS_MESSAGE), STATUS_MESSAGE);
  const stream = duplex(client);
  await stream.write(statusRequest(STATUS_MESSAGE));
  await stream.over(Status.UNKNOWN, STATUS_MESSAGE);
}

async function special_status_message({ stub }) {
  await fails(stub, statusRequest(SPECIAL_MESSAGE), SPECIAL_MESSAGE);
}

async function unimplemented_method({ stub }) {
  equal((await unary(stub, 'UnimplementedCall', {})).status.code, Status.UNIMPLEMENTED, 'code');
}

async function unimplemented_service({ unimplemented }) {
  equal((await unary(unimplemented, 'UnimplementedCall', {})).status.code, Status.UNIMPLEMENTED, 'code');
}

async function cancel_after_begin({ stub }) {
  const before = await counts(stub);
  const { call, over } = upload(stub);
  await reach(stub, 'begun', before);
  call.cancel();
  const { error } = await over;
  equal(error && error.code, Status.CANCELLED, 'code');
  await reach(stub, 'ended', before);
}

async function cancel_after_first_response(client) {
  const before = await counts(client.stub);
  const stream = duplex(client);
  await stream.write(outputRequest([OUTPUT_SIZES[0]], { send: INPUT_SIZES[0] }));
  equal(sizeOf(await stream.read()), OUTPUT_SIZES[0], 'size of the response');
  stream.call.cancel();
  equal((await stream.status).code, Status.CANCELLED, 'code');
  await reach(client.stub, 'ended', before);
}

async function timeout_on_sleeping_server(client) {
  await empty_unary(client); // so that it is not the connection that takes too long
  const stream = duplex(client, { ms: TINY_TIMEOUT_MS });
  stream.write(outputRequest([], { send: 27182 })).catch(() => {}); // the deadline may come before
  equal((await stream.status).code, Status.DEADLINE_EXCEEDED, 'code');
}

async function rpc_soak({ stub, settings }) {
  await soak(settings, () => callLarge(stub));
}

async function channel_soak(client) {
  await soak(client.settings, async () => {
    const { stub, unimplemented } = client.connect();
    try {
      await callLarge(stub);
    } finally {
      stub.close();
      unimplemented.close();
    }
  });
}

async function soak(settings, once) {
  const end = Date.now() + settings.soak_overall_s * 1000;
  const failures = [];
  let done = 0;
  for (; done < settings.soak_iterations && Date.now() < end; done += 1) {
    const began = Date.now();
    let error = '';
    await once().catch((raised) => (error = String(raised)));
    const took = (Date.now() - began) / 1000;
    if (error || took > settings.soak_latency_s) failures.push(error || `took ${took.toFixed(3)} s`);
    if (took < settings.soak_gap_s) await new Promise((resolve) => setTimeout(resolve, (settings.soak_gap_s - took) * 1000));
  }
  equal(done, settings.soak_iterations, 'calls made in time');
  if (failures.length > settings.soak_max_failures) {
    throw new CaseFailed(`${failures.length} of ${done} calls failed, the first: ${failures[0]}`);
  }
}

async function pick_first_unary({ stub }) {
  const names = new Set();
  for (let call = 0; call < 100; call += 1) names.add((await answer(stub, 'UnaryCall', { fill_server_id: true })).server_id);
  equal(names.size, 1, 'servers that answered');
  if (names.has('')) throw new CaseFailed('the server did not name itself');
}

async function concurrent_large_unary({ stub, settings }) {
  await Promise.all(Array.from({ length: settings.concurrency }, () => callLarge(stub, CROWD_MS)));
}

async function client_pushback(client) {
  const stream = duplex(client, { ms: 2 * PATIENCE_MS });
  await stream.write(outputRequest([1], { interval_us: NEVER_US })); // until this is answered, it reads no more
  let written = 0;
  for (; written < PUSHBACK_COUNT; written += 1) {
    const writing = stream.write(outputRequest([], { send: PUSHBACK_SIZE }));
    writing.catch(() => {}); // the last one is cancelled
    if (!(await Promise.race([writing.then(() => true), stalled()]))) break;
  }
  pushedBack(written);
  if (client.settings.neighbours) await large_unary(client);
  stream.call.cancel();
  await stream.status;
}

function stalled() {
  return new Promise((resolve) => setTimeout(() => resolve(false), STALLED_MS));
}

function pushedBack(sent) {
  if (!(sent > 0 && sent < PUSHBACK_COUNT)) {
    throw new CaseFailed(`${sent} of ${PUSHBACK_COUNT} messages were sent to a side that does not read`);
  }
}

async function server_pushback(client) {
  const onlooker = client.connect().stub;
  const before = await counts(onlooker);
  const request = outputRequest(Array(PUSHBACK_COUNT).fill(PUSHBACK_SIZE));
  const stream = new Stream(client.stub.StreamingOutputCall(request, new grpc.Metadata(), options(2 * PATIENCE_MS)));
  const found = [sizeOf(await stream.read())];
  const end = Date.now() + PATIENCE_MS;
  let sent = -1;
  for (let since = Date.now(); Date.now() - since < STALLED_MS; await later(GLANCE_MS)) {
    const now = (await counts(onlooker)).streamed - before.streamed;
    if (now !== sent) [sent, since] = [now, Date.now()];
    if (Date.now() > end) throw new CaseFailed(`the sender did not come to rest, ${sent} messages so far`);
  }
  pushedBack(sent);
  if (client.settings.neighbours) await large_unary(client);
  for (let response; (response = await stream.read()); ) found.push(sizeOf(response));
  equal(found, Array(PUSHBACK_COUNT).fill(PUSHBACK_SIZE), 'sizes of the responses');
}

// What the server counts; null if it does not.
async function counts(stub) {
  const metadata = new grpc.Metadata();
  metadata.set(COUNTS, '1');
  const { error, status } = await unary(stub, 'EmptyCall', {}, { metadata });
  if (error) throw error;
  const [found] = status.metadata.get(COUNTS);
  if (found === undefined) return null;
  const [begun, ended, streamed] = found.split(' ').map(Number);
  return { begun, ended, streamed };
}

// Waits until the server has counted one more; a server that does not count is believed.
async function reach(stub, what, before) {
  const end = Date.now() + PATIENCE_MS;
  while (before && (await counts(stub))[what] <= before[what]) {
    if (Date.now() > end) throw new CaseFailed(`no handler has ${what} within ${PATIENCE_MS} ms`);
    await later(GLANCE_MS);
  }
}

const CASES = {
  empty_unary,
  large_unary,
  client_streaming,
  server_streaming,
  client_compressed_unary,
  client_compressed_streaming,
  server_compressed_unary,
  server_compressed_streaming,
  ping_pong,
  empty_stream,
  custom_metadata,
  status_code_and_message,
  special_status_message,
  unimplemented_method,
  unimplemented_service,
  cancel_after_begin,
  cancel_after_first_response,
  timeout_on_sleeping_server,
  rpc_soak,
  channel_soak,
  pick_first_unary,
  concurrent_large_unary,
  client_pushback,
  server_pushback,
  long_lived_channel: rpc_soak, // the same calls with a gap between them
};

module.exports = { CASES, CaseFailed, Client };
