'use strict';
const { Schema, model } = require('mongoose');

const schema = new Schema(
  {
    userId: { type: Schema.Types.ObjectId, ref: 'User', required: true },
    type: String,
    title: String,
    read: { type: Boolean, default: false },
  },
  { timestamps: { createdAt: true, updatedAt: false } },
);
schema.index({ userId: 1, read: 1 });
schema.index({ createdAt: 1 });

module.exports = model('Notification', schema);
