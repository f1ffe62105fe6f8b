'use strict';
const { Schema, model } = require('mongoose');

const schema = new Schema(
  {
    userId: { type: Schema.Types.ObjectId, ref: 'User', required: true, index: true },
    isPrimary: { type: Boolean, default: false },
    street: String,
    city: String,
    country: String,
    postalCode: String,
  },
  { timestamps: true },
);
schema.index({ userId: 1, isPrimary: 1 });

module.exports = model('Address', schema);
