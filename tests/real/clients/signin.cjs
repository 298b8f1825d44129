// An agent on the official TypeScript SDK that signs in where the server says: its OAuth client finds the authorization
// server, registers, sends its user there, and calls with the token that comes of it.
//
//     NODE_PATH=<node_modules> node signin.cjs '{"url": …, "user": …, "mode": "legacy" | "auto"}'
'use strict';

const { Client, StreamableHTTPClientTransport, UnauthorizedError } = require('@modelcontextprotocol/client');

const REDIRECT = 'http://127.0.0.1:1/callback';

/** What the SDK's OAuth client keeps and asks of us. */
class Memory {
    constructor(user) {
        this.user = user;
        this.kept = {};
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

async function main() {
    const { url, user, mode } = JSON.parse(process.argv[2]);
    const memory = new Memory(user);
    const connect = async () => {
        const client = new Client({ name: 'weft-tests', version: '1' }, { versionNegotiation: { mode } });
        const transport = new StreamableHTTPClientTransport(new URL(url), { authProvider: memory });
        try {
            await client.connect(transport);
            return { client };
        } catch (error) {
            if (!(error instanceof UnauthorizedError)) throw error;
            return { transport };
        }
    };
    let { client, transport } = await connect();
    if (!client) {
        await transport.finishAuth(memory.redirected);
        ({ client } = await connect());
    }
    let came;
    try {
        came = await client.callTool({ name: 'echo', arguments: { text: 'hello' } });
        came = came.content.map(({ text }) => text);
    } catch (error) {
        came = { error: error.code };
    }
    await client.close();
    console.log(JSON.stringify({ came, token: memory.kept.tokens.access_token }));
}

main().catch((error) => {
    console.error(error);
    process.exit(1);
});
