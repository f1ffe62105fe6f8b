'use strict';
const { Schema, model } = require('mongoose');

const schema = new Schema(
  {
    buyerId: { type: Schema.Types.ObjectId, ref: 'User', required: true, index: true },
    status: { type: String, default: 'open', index: true },
    title: { type: String, required: true },
    description: String,
    budget: { min: Schema.Types.Decimal128, max: Schema.Types.Decimal128 },
  },
  { timestamps: true },
);
schema.index({ createdAt: 1 });
schema.index({ title: 'text', description: 'text' });

module.exports = model('PurchaseRequest', schema);
