// The test service on grpc-js's server.
'use strict';

const path = require('path');
const grpc = require('@grpc/grpc-js');
const loader = require('@grpc/proto-loader');

const PROTO = path.join(__dirname, '..', '..', 'support', 'protos', 'grpc_testing.proto');
const definition = loader.loadSync(PROTO, { keepCase: true, defaults: true, longs: Number, enums: Number });
const testing = grpc.loadPackageDefinition(definition).grpc.testing;

const ECHO_INITIAL = 'x-grpc-test-echo-initial';
const ECHO_TRAILING = 'x-grpc-test-echo-trailing-bin';
const COUNTS = 'x-interop-counts';

// Does what requests say.
class Servicer {
  constructor(name) {
    this.name = name;
    this.begun = 0;
    this.ended = 0;
    this.streamed = 0;
  }

  handlers() {
    return {
      EmptyCall: (call, callback) => this.empty(call, callback),
      UnaryCall: (call, callback) => this.unary(call, callback),
      StreamingOutputCall: (call) => this.output(call),
      StreamingInputCall: (call, callback) => this.input(call, callback),
      FullDuplexCall: (call) => this.duplex(call),
    };
  }

  empty(call, callback) {
    const trailers = new grpc.Metadata();
    if (call.metadata.get(COUNTS).length) trailers.set(COUNTS, `${this.begun} ${this.ended} ${this.streamed}`);
    callback(null, {}, trailers);
  }

  unary(call, callback) {
    const trailers = echo(call);
    const refused = refusal(call.request, trailers);
    if (refused) {
      callback(refused);
      return;
    }
    const server_id = call.request.fill_server_id ? this.name : '';
    callback(null, { payload: payload(call.request.response_size), server_id }, trailers);
  }

  async output(call) {
    await this.respond(call, call.request, cancelled(call));
    call.end();
  }

  input(call, callback) {
    let total = 0;
    this.begun += 1;
    let open = true;
    const end = () => {
      this.ended += open ? 1 : 0;
      open = false;
    };
    call.on('cancelled', end);
    call.on('data', (request) => (total += sizeOf(request)));
    call.on('end', () => {
      end();
      callback(null, { aggregated_payload_size: total });
    });
  }

  async duplex(call) {
    const over = cancelled(call);
    const trailers = echo(call);
    this.begun += 1;
    try {
      const requests = call.iterator({ destroyOnReturn: false }); // responses may follow the last request
      for (;;) {
        const next = await Promise.race([requests.next(), over]);
        if (!next || next.done) break;
        const refused = refusal(next.value, trailers);
        if (refused) {
          call.emit('error', refused);
          return;
        }
        await this.respond(call, next.value, over);
      }
      call.end(trailers);
    } catch {
      // The client is gone.
    } finally {
      this.ended += 1;
    }
  }

  // Sends payloads, no faster than they are read.
  async respond(call, request, over) {
    for (const each of request.response_parameters) {
      if (each.interval_us) await Promise.race([later(each.interval_us / 1000), over]);
      if (call.cancelled) return;
      this.streamed += 1;
      const response = { payload: payload(each.size) };
      if (each.fill_peer_socket_address && each.fill_peer_socket_address.value) response.peer_socket_address = call.getPeer();
      if (!call.write(response)) await Promise.race([new Promise((resolve) => call.once('drain', resolve)), over]);
    }
  }
}

function cancelled(call) {
  return new Promise((resolve) => call.once('cancelled', () => resolve(null)));
}

function later(ms) {
  return new Promise((resolve) => setTimeout(resolve, ms).unref());
}

function sizeOf(message) {
  return message.payload ? message.payload.body.length : 0;
}

function payload(size) {
  return { body: Buffer.alloc(size) };
}

// Sends metadata back where its key says; gives the trailers.
function echo(call) {
  const trailers = new grpc.Metadata();
  const [initial] = call.metadata.get(ECHO_INITIAL);
  const [trailing] = call.metadata.get(ECHO_TRAILING);
  if (initial !== undefined) {
    const headers = new grpc.Metadata();
    headers.set(ECHO_INITIAL, initial);
    call.sendMetadata(headers);
  }
  if (trailing !== undefined) trailers.set(ECHO_TRAILING, trailing);
  return trailers;
}

// The status that a request asks for, if it does.
function refusal(request, metadata) {
  const status = request.response_status;
  return status && status.code ? { code: status.code, details: status.message, metadata } : null;
}

module.exports = { COUNTS, ECHO_INITIAL, ECHO_TRAILING, Servicer, later, payload, sizeOf, testing };
