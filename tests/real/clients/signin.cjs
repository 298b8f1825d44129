// An agent on the official TypeScript SDK that signs in where the server says: its OAuth client finds the authorization
// server, registers, sends its user there, and calls with the token that comes of it.
//
//     NODE_PATH=<node_modules> node signin.cjs '{"url": …, "user": …, "client": <its name, if it has one> | null,
//         "mode": "legacy" | "auto", "calls": [[tool, arguments], …]}'
'use strict';

const { Client, StreamableHTTPClientTransport, UnauthorizedError } = require('@modelcontextprotocol/client');

const REDIRECT = 'http://127.0.0.1:1/callback';

/** What the SDK's OAuth client keeps and asks of us. */
class Memory {
    constructor(user, client) {
        this.user = user;
        this.kept = client ? { client: { client_id: client } } : {};
        this.given = [];
    }
    get redirectUrl() {
        return REDIRECT;
    }
    get clientMetadata() {
        return {
            client_name: 'weft-tests',
            redirect_uris: [REDIRECT],
            grant_types: ['authorization_code', 'refresh_token'],
            response_types: ['code'],
            token_endpoint_auth_method: 'none',
            application_type: 'native',
        };
    }
    clientInformation() {
        return this.kept.client;
    }
    saveClientInformation(client) {
        this.kept.client = client;
    }
    tokens() {
        return this.kept.tokens;
    }
    saveTokens(tokens) {
        this.kept.tokens = tokens;
        this.given.push(tokens.access_token);
    }
    codeVerifier() {
        return this.kept.verifier;
    }
    saveCodeVerifier(verifier) {
        this.kept.verifier = verifier;
    }
    async redirectToAuthorization(url) {
        this.redirected = await signIn(url.toString(), this.user);
    }
}

/** What a browser does, with the cookies that it is given, until it is sent back to the client. */
async function signIn(url, user) {
    const cookies = new Map();
    for (let hop = 0; hop < 20; hop += 1) {
        const cookie = [...cookies].map(([name, value]) => `${name}=${value}`).join('; ');
        const response = await fetch(url, { redirect: 'manual', headers: { cookie, 'x-user': user } });
        for (const set of response.headers.getSetCookie()) {
            const [name, ...value] = set.split(';')[0].split('=');
            cookies.set(name, value.join('='));
        }
        const next = response.headers.get('location');
        if (!next) throw new Error(`${response.status} at ${url}: ${await response.text()}`);
        url = new URL(next, url).toString();
        if (url.startsWith(REDIRECT)) return new URL(url).searchParams;
    }
    throw new Error('sent about without end');
}

/** Does what may need another token first: once, then it has it. */
async function signedIn(memory, transport, does) {
    try {
        return await does();
    } catch (error) {
        if (!(error instanceof UnauthorizedError)) throw error;
        await transport().finishAuth(memory.redirected);
        return does();
    }
}

async function main() {
    const { url, user, client: name, mode, calls } = JSON.parse(process.argv[2]);
    const memory = new Memory(user, name);
    let client;
    let transport;
    const connect = async () => {
        client = new Client({ name: 'weft-tests', version: '1' }, { versionNegotiation: { mode } });
        transport = new StreamableHTTPClientTransport(new URL(url), { authProvider: memory });
        await client.connect(transport);
    };
    await signedIn(memory, () => transport, connect);
    const came = [];
    for (const [tool, args] of calls) {
        try {
            const call = () => client.callTool({ name: tool, arguments: args });
            const result = await signedIn(memory, () => transport, call);
            came.push(result.content.map(({ text }) => text));
        } catch (error) {
            came.push({ error: error.code ?? error.name });
        }
    }
    await client.close();
    console.log(JSON.stringify({ came, given: memory.given }));
}

main().catch((error) => {
    console.error(error);
    process.exit(1);
});
