// An agent of the revision 2025-11-25 on the official TypeScript SDK, which knows tasks: calls a tool as one, fills in the
// forms that it is shown, and prints what came of it.
//
//     NODE_PATH=<node_modules> node tasks.cjs '{"url": …, "tool": …, "arguments": {…}, "cancel": true | false}'
'use strict';

const { writeSync } = require('node:fs');
const { Client } = require('@modelcontextprotocol/sdk/client/index.js');
const { StreamableHTTPClientTransport } = require('@modelcontextprotocol/sdk/client/streamableHttp.js');
const { ElicitRequestSchema, TaskStatusNotificationSchema } = require('@modelcontextprotocol/sdk/types.js');

async function main({ url, tool, arguments: values, cancel }) {
    const said = { tasks: false, support: {}, seen: [], asked: [], told: [], listed: [] };
    const client = new Client({ name: 'weft-tests', version: '1.0.0' }, { capabilities: { elicitation: { form: {} } } });
    client.setRequestHandler(ElicitRequestSchema, async ({ params }) => {
        said.asked.push(params.message);
        const fields = Object.keys(params.requestedSchema.properties);
        const filled = fields.map((name) => [name, params.requestedSchema.properties[name].type === 'boolean' ? true : 'ada']);
        return { action: 'accept', content: Object.fromEntries(filled) };
    });
    client.setNotificationHandler(TaskStatusNotificationSchema, ({ params }) => void said.told.push(params.status));
    await client.connect(new StreamableHTTPClientTransport(new URL(url)));
    said.tasks = client.getServerCapabilities().tasks !== undefined;
    const { tools } = await client.listTools();
    said.support = Object.fromEntries(tools.map(({ name, execution }) => [name, execution?.taskSupport]));
    const { tasks } = client.experimental;
    for await (const message of tasks.callToolStream({ name: tool, arguments: values }, undefined, { task: { ttl: 60_000 } })) {
        said.seen.push(message.task ? message.task.status : message.type);
        if (message.type === 'taskCreated') {
            said.listed = (await tasks.listTasks()).tasks.map(({ taskId }) => taskId === message.task.taskId);
            if (cancel) said.cancelled = (await tasks.cancelTask(message.task.taskId)).status;
        }
        if (message.type === 'result') said.result = message.result;
        if (message.type === 'error') said.error = message.error.message;
    }
    await client.close();
    writeSync(1, JSON.stringify(said));
    process.exit(0);
}

main(JSON.parse(process.argv[2])).catch((error) => {
    console.error(error);
    process.exit(1);
});
