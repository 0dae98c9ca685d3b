// Streams an answer: node chat.js "Why do pumps vibrate?"
//
// EDGEQWEN_TARGET says where the daemon is: unix:PATH or HOST:PORT. The contract is read as it is, no code is generated.

'use strict';

const path = require('node:path');
const grpc = require('@grpc/grpc-js');
const protoLoader = require('@grpc/proto-loader');

const TARGET = process.env.EDGEQWEN_TARGET || 'unix:/run/edgeqwen/edgeqwend.sock';
const PROTOS = process.env.EDGEQWEN_PROTOS || path.join(__dirname, '..', '..', 'protos');
const DEADLINE_MS = 120_000;

const definition = protoLoader.loadSync('edgeqwen/v1/generation.proto', {
  includeDirs: [PROTOS],
  longs: Number,
  enums: String,
  oneofs: true,
  defaults: true,
});
const { edgeqwen } = grpc.loadPackageDefinition(definition);
const client = new edgeqwen.v1.Generation(TARGET, grpc.credentials.createInsecure());

const question = process.argv.slice(2).join(' ') || 'What is the capital of France?';
const request = {
  chat: { messages: [{ role: 'user', content: question }] },
  maxTokens: 64,
  sampling: { temperature: 0 },
};

const answer = client.generate(request, { deadline: Date.now() + DEADLINE_MS });
answer.on('data', (event) => {
  if (event.event === 'delta') {
    process.stdout.write(event.delta.text);
  } else if (event.event === 'finished') {
    process.stdout.write('\n');
    console.error(`[${event.finished.reason}, ${event.finished.usage.completionTokens} tokens]`);
  }
});
answer.on('error', (error) => {
  console.error(`chat.js: ${grpc.status[error.code]}: ${error.details}`);
  process.exitCode = 1;
});
answer.on('end', () => client.close());
process.on('SIGINT', () => answer.cancel()); // the daemon frees the slot within one step
