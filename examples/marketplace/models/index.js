'use strict';
// The models of the marketplace, as its backend declares them. `mainstay index import mongoose models` reads their indexes.

module.exports = {
  User: require('./user'),
  Address: require('./address'),
  PurchaseRequest: require('./purchase-request'),
  SellerOffer: require('./seller-offer'),
  Payment: require('./payment'),
  Chat: require('./chat'),
  Notification: require('./notification'),
  TempVerification: require('./temp-verification'),
};
