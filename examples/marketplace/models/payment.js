'use strict';
const { Schema, model } = require('mongoose');

const schema = new Schema(
  {
    userId: { type: Schema.Types.ObjectId, ref: 'User', required: true, index: true },
    status: { type: String, default: 'pending', index: true },
    providerPaymentId: { type: String, unique: true, sparse: true },
    transactionHash: { type: String, index: true },
    amount: { value: Schema.Types.Decimal128, fee: Schema.Types.Decimal128 },
  },
  { timestamps: true },
);
schema.index({ createdAt: 1 });

module.exports = model('Payment', schema);
