'use strict';
// Tells what the models of a Mongoose project declare, without a database.
//
// Loaded before the project (`node --require`, by NODE_OPTIONS) it takes the network out: in every copy of Mongoose that is loaded connecting
// does nothing, and models build nothing when they are made; whatever else connects by TCP or TLS is refused. Sockets of this machine stay, by
// which loaders talk to their parents, and package managers go where they must. When no more models come, or the program ends, it writes what
// they declare into a file in MAINSTAY_IMPORT_DIR and ends the program. Run by itself it loads the files and folders that are named, then does
// the same. Judges nothing: what the facts mean is read elsewhere. Works with Mongoose 8 and 9.

const fs = require('node:fs');
const net = require('node:net');
const path = require('node:path');
const Module = require('node:module');
const { pathToFileURL } = require('node:url');

const FORMAT = 1;
const QUIET_MS = Number(process.env.MAINSTAY_IMPORT_QUIET_MS || 1000);
const copies = new Map(); // the exports of a copy -> its instances
let written = false;
let quiet = null;
let loadsFiles = false;
const isPackageManager = /(^|[\\/])(npm|npx|pnpm|yarn|corepack)(-cli)?(\.c?js)?$/.test(process.argv[1] || '');

// Other clients than Mongoose's meet what they would meet without a network, said as ours. TLS and HTTP connect through this, too.
const open = net.Socket.prototype.connect;
if (!isPackageManager) {
  net.Socket.prototype.connect = function connect(...given) {
    const first = Array.isArray(given[0]) ? given[0][0] : given[0];
    const isName = typeof first === 'string' && !(Number(first) >= 0);
    const to = first !== null && typeof first === 'object' ? first : { [isName ? 'path' : 'port']: first, host: given[1] };
    if (to.path) return open.apply(this, given);
    const host = typeof to.host === 'string' ? to.host : 'localhost';
    const refused = new Error(`connection to ${host}:${to.port} refused: mainstay loads the models without a network`);
    refused.code = 'ECONNREFUSED';
    // What is written meanwhile is kept back, and whoever connects has time to listen, as with any other connection.
    this.connecting = true;
    process.nextTick(() => this.destroy(refused));
    return this;
  };
}

const isMongoose = (it) =>
  it !== null && typeof it === 'object' && typeof it.Mongoose === 'function' && typeof it.Schema === 'function' &&
  typeof it.version === 'string' && it.connection !== undefined;

function patch(mongoose) {
  if (copies.has(mongoose)) return;
  const instances = new Set([mongoose]);
  copies.set(mongoose, instances);
  const prototype = mongoose.Mongoose.prototype;
  const keep = (connection, options) => {
    if (options && 'autoIndex' in options && connection.config) connection.config.autoIndex = options.autoIndex;
  };
  const wrap = (holder, name, make) => {
    const original = holder[name];
    if (typeof original === 'function') holder[name] = make(original);
  };
  wrap(prototype, 'connect', () => async function connect(uri, options) {
    instances.add(this);
    keep(this.connection, options);
    return this;
  });
  wrap(prototype, 'createConnection', (original) => function createConnection(uri, options) {
    instances.add(this);
    // Without an address it is made and not opened.
    const connection = original.call(this);
    keep(connection, typeof uri === 'object' ? uri : options);
    connection.asPromise = async () => connection;
    return connection;
  });
  wrap(prototype, 'model', (original) => function model(...given) {
    instances.add(this);
    const made = original.apply(this, given);
    settle();
    return made;
  });
  for (let holder = mongoose.connection; holder && holder !== Object.prototype; holder = Object.getPrototypeOf(holder)) {
    if (Object.hasOwn(holder, 'openUri')) {
      holder.openUri = async function openUri(uri, options) {
        keep(this, options);
        return this;
      };
    }
    if (Object.hasOwn(holder, 'model')) {
      wrap(holder, 'model', (original) => function model(...given) {
        const made = original.apply(this, given);
        settle();
        return made;
      });
    }
  }
  // Models build their collection and indexes when they are made, unless told otherwise. Whether they would is asked later.
  mongoose.Model.init = function init() {
    this.$init = Promise.resolve(this);
    this.$caught = true;
    return this.$init;
  };
  for (const name of ['createCollection', 'createIndexes', 'ensureIndexes', 'syncIndexes', 'cleanIndexes']) {
    wrap(mongoose.Model, name, () => async function nothing() {});
  }
}

// Every copy that is loaded, wherever the project keeps it. Only its own name is looked at: other modules may be half made.
const load = Module._load;
Module._load = function _load(request, ...given) {
  const loaded = load.call(this, request, ...given);
  const asked = typeof request === 'string' && /(^|[\\/])mongoose([\\/]index(\.js)?)?$/.test(request);
  if (asked && !request.startsWith('.') && isMongoose(loaded)) patch(loaded);
  return loaded;
};

// An `import` may find a copy without asking for it above; one that is loaded already is the one that it finds.
function preload(folder) {
  try {
    Module.createRequire(path.join(folder, 'any.js'))('mongoose');
  } catch (error) {
    if (error.code !== 'MODULE_NOT_FOUND' && error.code !== 'ERR_REQUIRE_ESM') throw error;
  }
}

function option(name, ...places) {
  for (const place of places) {
    if (place && place[name] !== undefined && place[name] !== null) return place[name];
  }
  return true;
}

function facts(mongoose, instance, connection, model) {
  const schema = model.schema;
  const options = schema.options || {};
  const mapping = schema.discriminatorMapping;
  const isChild = Boolean(mapping && !mapping.isRoot);
  return {
    name: model.modelName,
    collection: model.collection.collectionName || model.collection.name,
    base: isChild ? model.baseModelName || null : null,
    discriminator: isChild ? { key: mapping.key, value: mapping.value } : null,
    collation: options.collation || null,
    autoIndex: Boolean(option('autoIndex', options, connection.config, instance.options)),
    special: Boolean(options.timeseries || options.viewOn),
    indexes: schema.indexes(),
  };
}

function tell() {
  const models = [];
  const seen = new Set();
  let version = null;
  let write = JSON.stringify;
  for (const [mongoose, instances] of copies) {
    version = version || mongoose.version;
    const bson = mongoose.mongo && (mongoose.mongo.BSON || mongoose.mongo);
    if (bson && bson.EJSON) write = (value) => bson.EJSON.stringify(value, { relaxed: true });
    for (const instance of instances) {
      for (const connection of instance.connections) {
        for (const model of Object.values(connection.models)) {
          if (seen.has(model)) continue;
          seen.add(model);
          models.push(facts(mongoose, instance, connection, model));
        }
      }
    }
  }
  return models.length === 0 ? null : write({ format: FORMAT, mongoose: version, models });
}

function finish() {
  if (written) return;
  const told = tell();
  if (told === null) return;
  written = true;
  const file = path.join(process.env.MAINSTAY_IMPORT_DIR, `${process.pid}.json`);
  fs.writeFileSync(`${file}.partial`, told);
  fs.renameSync(`${file}.partial`, file);
}

// A program that serves does not end by itself: it is ended when no model came for a while.
function settle() {
  if (loadsFiles || written) return;
  clearTimeout(quiet);
  quiet = setTimeout(() => {
    finish();
    process.exit(0);
  }, QUIET_MS);
}

process.on('exit', (status) => {
  if (status === 0) finish();
});

function* files(place) {
  if (!fs.statSync(place).isDirectory()) {
    yield place;
    return;
  }
  for (const entry of fs.readdirSync(place, { withFileTypes: true }).sort((one, other) => (one.name < other.name ? -1 : 1))) {
    const below = path.join(place, entry.name);
    if (entry.isDirectory()) {
      if (entry.name !== 'node_modules' && !entry.name.startsWith('.')) yield* files(below);
    } else if (/\.(c|m)?js$/.test(entry.name) && !/\.(test|spec)\.(c|m)?js$/.test(entry.name)) {
      yield below;
    }
  }
}

async function loadAll(places) {
  loadsFiles = true;
  for (const place of places.map((place) => path.resolve(place))) {
    const folder = fs.statSync(place).isDirectory() ? place : path.dirname(place);
    preload(folder);
    for (const file of files(place)) await import(pathToFileURL(file).href);
  }
  finish();
  process.exit(0);
}

if (require.main === module) {
  loadAll(process.argv.slice(2)).catch((error) => {
    console.error(error);
    process.exit(1);
  });
} else if (!isPackageManager) {
  preload(process.cwd());
}
