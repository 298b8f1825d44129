// An agent on the official TypeScript SDK: connects to a server, takes the steps it is told, and prints what came of
// each. Its sibling in Python is `agents.py`.
//
//     NODE_PATH=<node_modules> node agent.cjs '{"url": …, "mode": "legacy" | "auto", "transport": "http" | "sse", "steps": […]}'
'use strict';

const { writeSync } = require('node:fs');
const { Client, SSEClientTransport, StreamableHTTPClientTransport } = require('@modelcontextprotocol/client');

const LOG_LEVEL_KEY = 'io.modelcontextprotocol/logLevel';
const WATCHED = 'test://watched-resource';
const PATIENCE_MS = 15_000;
const STEP_MS_MAX = 30_000;

// The names of the server that is meant begin with this, where it is one among many.
let prefix = '';
let watched = WATCHED;
// What becomes of a form.
let action = 'accept';

const heard = { asked: [], logs: [], updates: [], changes: 0 };

function newClient(mode) {
    const client = new Client(
        { name: 'weft-tests', version: '1.0.0' },
        {
            capabilities: { elicitation: { form: {} }, sampling: {}, roots: {} },
            versionNegotiation: { mode },
        },
    );
    client.setRequestHandler('elicitation/create', async ({ params }) => {
        heard.asked.push('elicitation/create');
        if (action !== 'accept') return { action };
        return { action, content: filledIn(params) };
    });
    client.setRequestHandler('sampling/createMessage', async ({ params }) => {
        heard.asked.push('sampling/createMessage');
        const said = params.messages[0].content.text;
        return { role: 'assistant', model: 'none', content: { type: 'text', text: `so you say: ${said}` } };
    });
    client.setRequestHandler('roots/list', async () => {
        heard.asked.push('roots/list');
        return { roots: [{ uri: 'file:///here', name: 'here' }] };
    });
    client.setNotificationHandler('notifications/message', ({ params }) => void heard.logs.push(params.data));
    client.setNotificationHandler('notifications/resources/updated', ({ params }) => void heard.updates.push(params.uri));
    client.setNotificationHandler('notifications/tools/list_changed', () => void (heard.changes += 1));
    return client;
}

// Texts say what was asked, so that it shows which question was answered.
function filledIn({ message, requestedSchema: { properties, required = [] } }) {
    const value = { string: `ada@mesh.test: ${message}`, boolean: true, integer: 1, number: 1 };
    return Object.fromEntries(required.map((name) => [name, value[properties[name].type]]));
}

const STEPS = {
    async among(client, its, resource) {
        [prefix, watched] = [its, resource];
        return {};
    },
    async tools(client) {
        const { tools } = await client.listTools();
        return tools.map(({ name }) => name).sort();
    },
    async call(client, name, values = {}) {
        const progress = [];
        const _meta = isModern(client) ? { [LOG_LEVEL_KEY]: 'info' } : undefined;
        const onprogress = ({ progress: done }) => void progress.push(done);
        const { content, isError = false } = await client.callTool({ name: prefix + name, arguments: values, _meta }, { onprogress });
        return { content: content.map(spoken), isError, progress };
    },
    async act(_, its) {
        action = its;
        return {};
    },
    // How many of so many calls at once, each of which asks something of its own, are answered with what was answered to that.
    async asked_crowd(client, many) {
        const messages = Array.from({ length: many }, (_, at) => `Who is ${process.pid}-${at}?`);
        const answers = await Promise.all(messages.map((message) => STEPS.call(client, 'test_elicitation', { message })));
        return answers.filter(({ content }, at) => content[0].includes(messages[at])).length;
    },
    async prompts(client) {
        const { prompts } = await client.listPrompts();
        return prompts.map(({ name }) => name).sort();
    },
    async prompt(client, name, values) {
        const { messages } = await client.getPrompt({ name: prefix + name, arguments: values });
        return messages.map(({ content }) => spoken(content));
    },
    async resources(client) {
        const { resources } = await client.listResources();
        return resources.map(({ uri }) => uri).sort();
    },
    async templates(client) {
        const { resourceTemplates } = await client.listResourceTemplates();
        return resourceTemplates.map(({ uriTemplate }) => uriTemplate).sort();
    },
    async read(client, uri) {
        const { contents } = await client.readResource({ uri });
        return contents.map(({ text, blob }) => text ?? `blob of ${blob.length}`);
    },
    async complete(client, prompt, name, value) {
        const ref = { type: 'ref/prompt', name: prefix + prompt };
        const { completion } = await client.complete({ ref, argument: { name, value } });
        return completion.values;
    },
    async ping(client) {
        return client.ping();
    },
    async level(client, level) {
        return client.setLoggingLevel(level);
    },
    // Whether an update of a resource arrives that was subscribed to.
    async watch(client) {
        if (!isModern(client)) await client.subscribeResource({ uri: watched });
        const listening = isModern(client) && (await client.listen({ resourceSubscriptions: [watched] }));
        await until(client, 'touch', () => heard.updates.includes(watched));
        await (isModern(client) ? listening.close() : client.unsubscribeResource({ uri: watched }));
        return heard.updates[0];
    },
    // Whether it is told that the tools changed.
    async notice(client) {
        const listening = isModern(client) && (await client.listen({ toolsListChanged: true }));
        await until(client, 'test_trigger_tool_change', () => heard.changes > 0);
        if (isModern(client)) await listening.close();
        return true;
    },
    // Whether the server learns that a call was cancelled.
    async cancel(client) {
        const cancelled = async () => Number((await STEPS.call(client, 'cancelled')).content[0]);
        const before = await cancelled();
        const leaving = new AbortController();
        const onprogress = () => leaving.abort();
        const options = { signal: leaving.signal, onprogress };
        const call = client.callTool({ name: `${prefix}wait`, arguments: { secs: 60 } }, options);
        const outcome = await call.then(() => 'answered', () => 'abandoned');
        const deadline = Date.now() + PATIENCE_MS;
        while ((await cancelled()) === before) if (Date.now() > deadline) return 'the server does not know';
        return outcome;
    },
    // How many of so many calls at once are answered with what was asked.
    async crowd(client, many) {
        const texts = Array.from({ length: many }, (_, at) => `${process.pid}-${at}`);
        const answers = await Promise.all(texts.map((text) => STEPS.call(client, 'echo', { text })));
        return answers.filter(({ content }, at) => content[0] === texts[at]).length;
    },
};

function isModern(client) {
    return client.getProtocolEra() === 'modern';
}

function spoken({ type, text, data, resource }) {
    return text ?? resource?.text ?? `${type} of ${data?.length}`;
}

// Calls the tool until what it causes is seen: a stream may open after the call that opened it returned.
async function until(client, tool, seen) {
    const deadline = Date.now() + PATIENCE_MS;
    while (!seen()) {
        if (Date.now() > deadline) throw new Error(`${tool} has no effect`);
        await STEPS.call(client, tool);
        await new Promise((wake) => setTimeout(wake, 20));
    }
}

// The code is the answer; what was said with it is for whoever looks for the fault.
function failed(step, error) {
    process.stderr.write(`${step}: ${error}\n`);
    return { error: typeof error.code === 'number' ? error.code : String(error) };
}

async function main({ url, mode, transport: kind, steps }) {
    const client = newClient(mode);
    const Transport = kind === 'sse' ? SSEClientTransport : StreamableHTTPClientTransport;
    const transport = new Transport(new URL(url));
    await client.connect(transport);
    const answers = [];
    for (const [name, ...values] of steps) {
        const late = new Promise((_, fail) => setTimeout(fail, STEP_MS_MAX, new Error('no answer')).unref());
        const step = Promise.race([STEPS[name](client, ...values), late]);
        answers.push(await step.catch((error) => failed(name, error)));
    }
    const version = client.getNegotiatedProtocolVersion();
    await transport.terminateSession?.();
    await client.close();
    writeSync(1, JSON.stringify({ version, answers, ...heard }));
}

main(JSON.parse(process.argv[2]))
    .catch((error) => {
        process.stderr.write(`${error.stack}\n`);
        process.exitCode = 1;
    })
    // Without waiting for the connections that the SDK keeps for later.
    .finally(() => process.exit());
