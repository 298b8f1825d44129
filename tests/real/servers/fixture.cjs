// A server for tests on the official TypeScript SDK, in both eras: what the conformance suite asks of one, and a few
// tools of our own. What it says is in `fixture.json`, which the other fixtures say too.
//
//     NODE_PATH=<node_modules> node fixture.cjs [--stdio] [--legacy | --modern]
//
// Over HTTP it listens on `PORT`, or a port of the system's choice, and prints it. `--legacy` and `--modern` leave it one era.
'use strict';

const { randomUUID } = require('node:crypto');
const { createServer } = require('node:http');
const { setTimeout: after } = require('node:timers/promises');
const {
    MissingRequiredClientCapabilityError,
    ProtocolError,
    Server,
    WebStandardStreamableHTTPServerTransport,
    createMcpHandler,
    createRequestStateCodec,
    isInitializeRequest,
    isLegacyRequest,
} = require('@modelcontextprotocol/server');
const { StdioServerTransport, serveStdio } = require('@modelcontextprotocol/server/stdio');
const { localhostHostValidation, localhostOriginValidation, toNodeHandler } = require('@modelcontextprotocol/node');
const FIXTURE = require('./fixture.json');

const IS_STDIO = process.argv.includes('--stdio');
const ONLY = ['legacy', 'modern'].find((era) => process.argv.includes(`--${era}`));
const INVALID_PARAMS = -32602;
const WATCHED = 'test://watched-resource';
const CAPABILITY_OF = {
    'elicitation/create': 'elicitation',
    'sampling/createMessage': 'sampling',
    'roots/list': 'roots',
};
const CAPABILITIES = {
    tools: { listChanged: true },
    prompts: { listChanged: true },
    resources: { subscribe: true, listChanged: true },
    completions: {},
    logging: {},
};
const CACHEABLE = [
    'server/discover',
    'tools/list',
    'prompts/list',
    'resources/list',
    'resources/templates/list',
    'resources/read',
];
const CAPABILITIES_KEY = 'io.modelcontextprotocol/clientCapabilities';

const states = createRequestStateCodec({ key: randomUUID() + randomUUID() });
const sessions = new Map();
const subscribers = new Map();
let notify = () => {};
let waitsCancelled = 0;

const text = (words) => ({ content: [{ type: 'text', text: words }] });
// The suite wants the steps of some tools apart.
const pause = () => after(50);

// The template with each `{name}` in its texts replaced by the argument of that name.
function filled(template, values) {
    if (Array.isArray(template)) return template.map((it) => filled(it, values));
    if (template !== null && typeof template === 'object') {
        return Object.fromEntries(Object.entries(template).map(([key, it]) => [key, filled(it, values)]));
    }
    if (typeof template !== 'string') return template;
    return Object.entries(values).reduce((it, [name, value]) => it.replaceAll(`{${name}}`, String(value)), template);
}

// What the client is asked.

// Asks the client as servers did before answers could require input: by a request of its own.
async function ask(ctx, request) {
    const answer = await ctx.mcpReq.send(request);
    if (request.method === 'sampling/createMessage') return answer.content.text;
    return `action=${answer.action}, content=${JSON.stringify(answer.content ?? {})}`;
}

async function askAbout(its, ctx, name, values) {
    const { prefix, request: template } = FIXTURE.asked[name];
    const request = filled(template, values);
    if (its.era === 'legacy') return text(prefix + (await ask(ctx, request)));
    const { answers, missing } = await required(its, ctx, { rounds: [{ answer: request }] });
    return missing ?? text(prefix + JSON.stringify(answers));
}

// What the client answered, or the result that asks for what is missing.
async function required(its, ctx, { rounds, stateful = false, onlyDeclared = false }) {
    const responses = ctx.mcpReq.inputResponses ?? {};
    const declared = capabilities(its, ctx);
    let number = ctx.mcpReq.requestState()?.round ?? 0;
    let wanted = Object.entries(rounds[number]);
    const undeclared = wanted.map(([, it]) => CAPABILITY_OF[it.method]).filter((name) => !(name in declared));
    if (undeclared.length > 0 && !onlyDeclared) throw missing(undeclared);
    wanted = wanted.filter(([, it]) => !undeclared.includes(CAPABILITY_OF[it.method]));
    if (wanted.every(([key]) => key in responses)) {
        number += 1;
        if (number === rounds.length) return { answers: Object.fromEntries(wanted.map(([key]) => [key, responses[key]])) };
        wanted = Object.entries(rounds[number]);
    }
    const result = { resultType: 'input_required', inputRequests: Object.fromEntries(wanted) };
    if (stateful) result.requestState = await states.mint({ round: number });
    return { missing: result };
}

function capabilities(its, ctx) {
    return (its.era === 'modern' ? ctx.mcpReq.envelope?.[CAPABILITIES_KEY] : its.server.getClientCapabilities()) ?? {};
}

function missing(names) {
    const requiredCapabilities = Object.fromEntries(names.map((name) => [name, {}]));
    return new MissingRequiredClientCapabilityError({ requiredCapabilities });
}

// Tools.

function log(its, ctx, words) {
    return ctx.mcpReq.log('info', words);
}

const TOOLS = {
    async test_tool_with_logging(its, ctx) {
        await log(its, ctx, 'Tool execution started');
        await pause();
        await log(its, ctx, 'Tool processing data');
        await pause();
        await log(its, ctx, 'Tool execution completed');
        return text('Logged three times.');
    },
    async test_logging_tool(its, ctx) {
        await log(its, ctx, 'At work');
        return text('Logged.');
    },
    async test_tool_with_progress(its, ctx) {
        for (const done of [0, 50, 100]) {
            if (done > 0) await pause();
            await progress(ctx, done, 100);
        }
        return text('Reported three times.');
    },
    async test_error_handling() {
        return { ...text('This tool intentionally returns an error for testing'), isError: true };
    },
    async test_reconnection(its, ctx) {
        if (ctx.http?.closeSSE) {
            ctx.http.closeSSE();
            await pause();
        }
        return text('Answered after the stream was closed.');
    },
    async test_missing_capability(its, ctx) {
        if (!('sampling' in capabilities(its, ctx))) throw missing(['sampling']);
        return text('The client can sample.');
    },
    async test_trigger_tool_change(its) {
        notify({ kind: 'tools_list_changed' });
        for (const server of told(its)) await server.sendToolListChanged();
        return text('The tools changed.');
    },
    async test_trigger_prompt_change(its) {
        notify({ kind: 'prompts_list_changed' });
        for (const server of told(its)) await server.sendPromptListChanged();
        return text('The prompts changed.');
    },
    async echo(its, ctx, values) {
        return text(values.text);
    },
    async wait(its, ctx, values) {
        await progress(ctx, 0, 1);
        try {
            await after(values.secs * 1000, undefined, { signal: ctx.mcpReq.signal });
        } catch {
            waitsCancelled += 1;
        }
        return text('Waited to the end.');
    },
    async cancelled() {
        return text(String(waitsCancelled));
    },
    async headers(its, ctx) {
        return text(JSON.stringify(Object.fromEntries(ctx.http?.req?.headers ?? [])));
    },
    async touch(its) {
        notify({ kind: 'resource_updated', uri: WATCHED });
        const servers = its.era === 'modern' && IS_STDIO ? [its.server] : (subscribers.get(WATCHED) ?? []);
        for (const server of servers) await server.sendResourceUpdated({ uri: WATCHED });
        return text('Touched.');
    },
};

async function progress(ctx, done, total) {
    const progressToken = ctx.mcpReq._meta?.progressToken;
    if (progressToken === undefined) return;
    await ctx.mcpReq.notify({ method: 'notifications/progress', params: { progressToken, progress: done, total } });
}

// Who is told of a change besides those that the handler of modern callers tells.
function told(its) {
    return IS_STDIO ? [its.server] : [...sessions.values()].map(({ server }) => server);
}

// Methods.

async function callTool(its, ctx, { name, arguments: values = {} }) {
    if (name in FIXTURE.said) return { content: FIXTURE.said[name] };
    if (name in FIXTURE.asked) return askAbout(its, ctx, name, values);
    if (name in FIXTURE.rounds) {
        if (its.era === 'legacy') {
            return { ...text('This tool asks in a way that this revision does not have.'), isError: true };
        }
        if (name === 'test_streaming_elicitation') await progress(ctx, 1, 2);
        const { answers, missing } = await required(its, ctx, FIXTURE.rounds[name]);
        return missing ?? text(`state-ok ${JSON.stringify(answers)}`);
    }
    if (name in TOOLS) return TOOLS[name](its, ctx, values);
    throw new ProtocolError(INVALID_PARAMS, `there is no tool ${name}`);
}

async function readResource(its, ctx, { uri }) {
    if (uri in FIXTURE.contents) return { contents: [FIXTURE.contents[uri]] };
    const [, id] = uri.match(/^test:\/\/template\/([^/]+)\/data$/) ?? [];
    if (id === undefined) throw new ProtocolError(INVALID_PARAMS, 'there is no such resource', { uri });
    const data = { id, templateTest: true, data: `Data for ID: ${id}` };
    return { contents: [{ uri, mimeType: 'application/json', text: JSON.stringify(data) }] };
}

async function getPrompt(its, ctx, { name, arguments: values = {} }) {
    let contents;
    if (name in FIXTURE.rounds) {
        const { answers, missing } = await required(its, ctx, FIXTURE.rounds[name]);
        if (missing) return missing;
        contents = text(JSON.stringify(answers)).content;
    } else if (name in FIXTURE.messages) {
        contents = filled(FIXTURE.messages[name], values);
    } else {
        throw new ProtocolError(INVALID_PARAMS, `there is no prompt ${name}`);
    }
    return { messages: contents.map((content) => ({ role: 'user', content })) };
}

async function complete(its, ctx, { argument }) {
    const values = FIXTURE.completions.filter((it) => it.startsWith(argument.value));
    return { completion: { values, total: values.length, hasMore: false } };
}

async function subscribe(its, ctx, { uri }) {
    subscribers.set(uri, (subscribers.get(uri) ?? new Set()).add(its.server));
    return {};
}

async function unsubscribe(its, ctx, { uri }) {
    subscribers.get(uri)?.delete(its.server);
    return {};
}

const METHODS = {
    'tools/list': async () => ({ tools: FIXTURE.tools }),
    'tools/call': callTool,
    'resources/list': async () => ({ resources: FIXTURE.resources }),
    'resources/templates/list': async () => ({ resourceTemplates: FIXTURE.templates }),
    'resources/read': readResource,
    'prompts/list': async () => ({ prompts: FIXTURE.prompts }),
    'prompts/get': getPrompt,
    'completion/complete': complete,
};
const LEGACY_METHODS = { 'resources/subscribe': subscribe, 'resources/unsubscribe': unsubscribe };

function newServer({ era }) {
    const { name, version, instructions } = FIXTURE.server;
    const server = new Server(
        { name, version },
        {
            instructions,
            capabilities: CAPABILITIES,
            cacheHints: Object.fromEntries(CACHEABLE.map((it) => [it, { ttlMs: 1000, cacheScope: 'public' }])),
            requestState: { verify: states.verify },
        },
    );
    const its = { server, era };
    const methods = era === 'legacy' ? { ...METHODS, ...LEGACY_METHODS } : METHODS;
    for (const [method, handle] of Object.entries(methods)) {
        server.setRequestHandler(method, (request, ctx) => handle(its, ctx, request.params ?? {}));
    }
    return server;
}

// Events of streams, so that a client can return to one.
class Events {
    events = [];

    async storeEvent(streamId, message) {
        this.events.push({ streamId, message });
        return String(this.events.length);
    }

    async getStreamIdForEventId(eventId) {
        return this.events[Number(eventId) - 1]?.streamId;
    }

    async replayEventsAfter(lastEventId, { send }) {
        const last = Number(lastEventId);
        const { streamId } = this.events[last - 1];
        for (const [at, event] of this.events.entries()) {
            const isMessage = Object.keys(event.message ?? {}).length > 0;
            if (at >= last && event.streamId === streamId && isMessage) await send(String(at + 1), event.message);
        }
        return streamId;
    }
}

// Legacy requests belong to a session.
async function serveLegacy(request) {
    const known = sessions.get(request.headers.get('mcp-session-id'));
    if (known) return known.transport.handleRequest(request);
    const opens = request.method === 'POST' && isInitializeRequest(await request.clone().json().catch(() => null));
    if (!opens) {
        const status = request.headers.has('mcp-session-id') ? 404 : 400;
        const error = { code: -32001, message: 'there is no such session' };
        return Response.json({ jsonrpc: '2.0', id: null, error }, { status });
    }
    const server = newServer({ era: 'legacy' });
    const transport = new WebStandardStreamableHTTPServerTransport({
        sessionIdGenerator: randomUUID,
        onsessioninitialized: (id) => void sessions.set(id, { server, transport }),
        onsessionclosed: (id) => void sessions.delete(id),
        eventStore: new Events(),
        retryInterval: 100,
    });
    await server.connect(transport);
    return transport.handleRequest(request);
}

function serveHttp() {
    const modern = createMcpHandler(newServer, { legacy: 'reject' });
    notify = (event) => modern.bus.publish(event);
    const isOurHost = localhostHostValidation();
    const isOurOrigin = localhostOriginValidation();
    const isForLegacy = ONLY ? () => ONLY === 'legacy' : isLegacyRequest;
    const handle = toNodeHandler({
        fetch: async (request) => ((await isForLegacy(request)) ? serveLegacy(request) : modern.fetch(request)),
    });
    const http = createServer((request, response) => {
        if (isOurHost(request, response) && isOurOrigin(request, response)) void handle(request, response);
    });
    http.listen(Number(process.env.PORT ?? 0), '127.0.0.1', () => process.stdout.write(`${JSON.stringify({ port: http.address().port })}\n`));
}

function serveOverStdio() {
    if (ONLY === 'legacy') {
        void newServer({ era: 'legacy' }).connect(new StdioServerTransport());
    } else {
        serveStdio(newServer, { legacy: ONLY === 'modern' ? 'reject' : 'serve' });
    }
}

if (IS_STDIO) {
    serveOverStdio();
} else {
    serveHttp();
}
