// Preloaded into a server that others wrote: prints the port on which it listens, as our own fixtures do.
'use strict';

const { Server } = require('node:net');

const { listen } = Server.prototype;
Server.prototype.listen = function (...values) {
    this.once('listening', () => process.stdout.write(`${JSON.stringify({ port: this.address().port })}\n`));
    return listen.apply(this, values);
};
