'use strict';
const { Schema, model } = require('mongoose');

const schema = new Schema({
  userId: { type: Schema.Types.ObjectId, ref: 'User' },
  purpose: String,
  codeHash: String,
  // Gone at this moment.
  expiresAt: { type: Date, required: true, expires: 0 },
});

module.exports = model('TempVerification', schema);
