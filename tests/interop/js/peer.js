// grpc-js as a peer: does what the lines of standard input say, one JSON object each, until that ends, and answers
// with a line for each. The other side is tests/support/peers. NODE_PATH says where the packages are.
'use strict';

const fs = require('fs');
const readline = require('readline');
const grpc = require('@grpc/grpc-js');

const { CASES, CaseFailed, Client } = require('./cases');
const { Servicer, testing } = require('./service');

// Channels of their own: grpc-js would share one connection between all of them in a process.
const OPTIONS = { 'grpc.enable_http_proxy': 0, 'grpc.use_local_subchannel_pool': 1 };

const servers = [];

async function interop_serve({ identity, streams, address = '127.0.0.1:0' }) {
  const server = new grpc.Server(streams ? { 'grpc.max_concurrent_streams': streams } : {});
  server.addService(testing.TestService.service, new Servicer(`grpc_js-${process.pid}-${servers.length}`).handlers());
  const port = await new Promise((resolve, reject) =>
    server.bindAsync(address, serverCredentials(identity), (error, found) => (error ? reject(error) : resolve(found)))
  );
  servers.push(server);
  return { port };
}

function serverCredentials(identity) {
  if (!identity) return grpc.ServerCredentials.createInsecure();
  const [cert, key] = identity.map((path) => fs.readFileSync(path));
  return grpc.ServerCredentials.createSsl(null, [{ private_key: key, cert_chain: cert }], false);
}

async function interop_case({ case: name, addresses, settings, trust }) {
  const client = new Client((options) => connect(addresses, trust, options), settings);
  try {
    await CASES[name](client);
  } catch (error) {
    return { failed: error instanceof CaseFailed ? error.message : `Traceback: ${error.stack}` };
  } finally {
    client.close();
  }
  return { failed: '' };
}

function connect(addresses, trust, options) {
  const all = { ...OPTIONS, ...options };
  let credentials = grpc.credentials.createInsecure();
  if (trust) {
    const [ca, name] = trust;
    credentials = grpc.credentials.createSsl(fs.readFileSync(ca));
    Object.assign(all, name ? { 'grpc.ssl_target_name_override': name, 'grpc.default_authority': name } : {});
  }
  const target = `ipv4:${addresses.join(',')}`;
  return [new testing.TestService(target, credentials, all), new testing.UnimplementedService(target, credentials, all)];
}

const COMMANDS = { interop_serve, interop_case };

async function main() {
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const command = JSON.parse(line);
    let answer;
    try {
      answer = await COMMANDS[command.do](command);
    } catch (error) {
      answer = { broken: error.stack };
    }
    process.stdout.write(`${JSON.stringify(answer)}\n`);
  }
  servers.forEach((server) => server.forceShutdown());
  process.exit(0);
}

main();
