// A server on the official TypeScript SDK that tells of each call whether what it sees of the arguments is as a policy
// wants it: `mirror.py` once more, where the same is said in JavaScript. It listens on a port of the system's choice and
// prints it.
'use strict';

const { createServer } = require('node:http');
const { inspect } = require('node:util');
const { Server, createMcpHandler } = require('@modelcontextprotocol/server');
const { toNodeHandler } = require('@modelcontextprotocol/node');
const TOOLS = [...Object.keys(require('./mirror.json')), 'heard', 'forbidden'];

let heard = 0;

// Fields are looked at as any program does it, with whatever a prototype has.
const SATISFIED = {
    path_is: (args) => args.path === '/public',
    path_under: (args) => typeof args.path === 'string' && args.path.startsWith('/public/'),
    path_in: (args) => ['/public', '/data'].includes(args.path),
    small: (args) => typeof args.size === 'number' && args.size < 100,
    exact: (args) => args.size === 9007199254740992,
    not_zero: (args) => args.size !== undefined && args.size !== 0,
    unasked: (args) => args.admin === undefined,
    not_forced: (args) => args.force === undefined || args.force === false,
    nested: (args) => args.where?.path === '/public',
    all_public: (args) =>
        Array.isArray(args.paths) && args.paths.every((it) => typeof it === 'string' && it.startsWith('/public')),
};

function callTool({ name, arguments: args = {} }) {
    let told = { heard };
    if (name !== 'heard') {
        heard += 1;
        const satisfied = Object.hasOwn(SATISFIED, name) && SATISFIED[name](args);
        told = { tool: name, satisfied, saw: inspect(args, { depth: 4 }).slice(0, 2000) };
    }
    return { content: [{ type: 'text', text: JSON.stringify(told) }] };
}

function newServer() {
    const server = new Server({ name: 'mirror', version: '1' }, { capabilities: { tools: {} } });
    const tools = TOOLS.map((name) => ({ name, inputSchema: { type: 'object' } }));
    server.setRequestHandler('tools/list', async () => ({ tools }));
    server.setRequestHandler('tools/call', async (request) => callTool(request.params));
    return server;
}

const handle = toNodeHandler(createMcpHandler(newServer, { legacy: 'reject' }));
const http = createServer((request, response) => void handle(request, response));
http.listen(0, '127.0.0.1', () => process.stdout.write(`${JSON.stringify({ port: http.address().port })}\n`));
