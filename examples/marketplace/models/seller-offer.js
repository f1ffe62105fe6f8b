'use strict';
const { Schema, model } = require('mongoose');

const schema = new Schema(
  {
    requestId: { type: Schema.Types.ObjectId, ref: 'PurchaseRequest', required: true, index: true },
    sellerId: { type: Schema.Types.ObjectId, ref: 'User', required: true, index: true },
    status: { type: String, default: 'sent', index: true },
    price: { amount: Schema.Types.Decimal128 },
  },
  { timestamps: true },
);

module.exports = model('SellerOffer', schema);
