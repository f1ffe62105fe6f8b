'use strict';
// Stock Mongoose, doing what its users do: `node stock.cjs ACTION URI MODELS` prints one JSON object.
//   create  builds what the models declare
//   diff    asks what a sync would drop and build, by model
//   sync    syncs; errors are told by model

const path = require('node:path');
const mongoose = require('mongoose');

async function main([action, uri, models]) {
  mongoose.set('autoIndex', false);
  mongoose.set('autoCreate', false);
  await mongoose.connect(uri);
  require(path.resolve(models));
  const told = {};
  for (const [name, model] of Object.entries(mongoose.models)) {
    try {
      if (action === 'create') told[name] = (await model.createIndexes()) ?? null;
      if (action === 'diff') told[name] = await model.diffIndexes();
      if (action === 'sync') told[name] = await model.syncIndexes();
    } catch (error) {
      told[name] = { error: error.message };
    }
  }
  console.log(JSON.stringify(told));
  await mongoose.disconnect();
}

main(process.argv.slice(2)).catch((error) => {
  console.error(error);
  process.exit(1);
});
