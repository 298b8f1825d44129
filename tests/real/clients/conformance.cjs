// The conformance suite's client: connects to the server that the suite is, and uses all that it finds there.
//
//     NODE_PATH=<node_modules> MCP_CONFORMANCE_PROTOCOL_VERSION=… node conformance.cjs <url>
'use strict';

const { Client, StreamableHTTPClientTransport } = require('@modelcontextprotocol/client');

const MODERN = '2026-07-28';

function valuesFor({ properties = {}, required = [] }) {
    const value = { string: 'text', boolean: true, integer: 1, number: 1, object: {}, array: [], null: null };
    return Object.fromEntries(required.map((name) => [name, value[properties[name]?.type] ?? 'text']));
}

async function main(url) {
    const { toolCalls } = JSON.parse(process.env.MCP_CONFORMANCE_CONTEXT ?? '{}');
    const mode = process.env.MCP_CONFORMANCE_PROTOCOL_VERSION === MODERN ? 'auto' : 'legacy';
    const client = new Client(
        { name: 'weft-tests', version: '1.0.0' },
        {
            capabilities: { elicitation: { form: { applyDefaults: true } }, sampling: {} },
            versionNegotiation: { mode },
        },
    );
    client.setRequestHandler('elicitation/create', async ({ params: { requestedSchema } }) => {
        return { action: 'accept', content: valuesFor(requestedSchema) };
    });
    await client.connect(new StreamableHTTPClientTransport(new URL(url)));
    const { tools = [], resources = [], prompts = [] } = await found(client);
    const calls = toolCalls ?? tools.map(({ name, inputSchema }) => ({ name, arguments: valuesFor(inputSchema) }));
    // To the end of each: the suite has answers that the SDK refuses, and the other calls go on beside them.
    const outcomes = await Promise.allSettled(calls.map((call) => client.callTool(call)));
    const refused = outcomes.find(({ status }) => status === 'rejected');
    if (refused) throw refused.reason;
    for (const { uri } of resources) await client.readResource({ uri });
    for (const { name } of prompts) await client.getPrompt({ name });
    await client.close();
}

async function found(client) {
    const has = client.getServerCapabilities() ?? {};
    return {
        ...(await client.listTools()),
        ...(has.resources && (await client.listResources())),
        ...(has.prompts && (await client.listPrompts())),
    };
}

main(process.argv.at(-1))
    .catch((error) => {
        process.stderr.write(`${error.stack}\n`);
        process.exitCode = 1;
    })
    // Without waiting for the connections that the SDK keeps for later.
    .finally(() => process.exit());
