"""How shop systems name the columns of their exports, and how anybody does: a table of layouts, one entry a system."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

Names = tuple[str, ...]


@dataclass(frozen=True)
class Layout:
    """Names under which a column may stand, the likeliest first; upper case, blanks and underscores do not matter.

    Attributes
    ----------
    user, item, time, order, quantity, status, title
        Of the orders. ``title`` is what the item is called there.
    lists
        Columns that hold all items of an order in one cell. A name that ends with ``*`` stands for a row of columns.
    clock
        Hour and minute, where ``time`` is a date alone.
    refunded
        How many of ``quantity`` came back; of each tuple one column counts, and they are added up.
    cancelled
        Is filled for cancelled orders alone.
    left_out
        Words of ``status`` that say that nothing was bought in the end, in lower case.
    guests
        Values of the user column that stand for nobody.
    product, product_group, texts
        Of the products: the id; what all rows of one product share; and the parts of the text, in order.
    drops_returns
        Leave returns and cancelled orders out, unless told otherwise.
    signs
        Columns by which an order export of this system is told, each tuple enough by itself.
    advice
        Where in the system the right export lies.
    """

    user: Names
    item: Names
    time: Names
    order: Names = ()
    quantity: Names = ()
    status: Names = ()
    title: Names = ()
    lists: Names = ()
    clock: Names = ()
    refunded: tuple[Names, ...] = ()
    cancelled: Names = ()
    left_out: Names = ()
    guests: Names = ()
    product: Names = ()
    product_group: Names = ()
    texts: tuple[Names, ...] = ()
    drops_returns: bool = True
    signs: tuple[Names, ...] = ()
    advice: str = ""


CANCELLED = (
    "cancelled", "canceled", "refunded", "fully refunded", "returned", "voided", "void", "failed", "declined",
    "storniert", "retourniert", "annulé", "annulée", "remboursé", "cancelado", "reembolsado", "annullato",
)  # fmt: skip

# anybody's tables
ANY = Layout(
    user=(
        "user_id", "user", "customer_id", "customer", "customer_number", "client_id", "client", "buyer_id", "buyer",
        "member_id", "account_id", "shopper_id", "visitor_id", "reviewerID", "kundennummer", "kunden_nr", "kunden_id",
        "kunde", "id_client", "cliente", "id_cliente", "klant", "klantnummer", "email", "customer_email",
        "billing_email", "email_billing", "email_address", "username", "user_name", "customer_name", "session_id",
    ),
    item=(
        "item_id", "item", "product_id", "product", "sku", "item_sku", "product_sku", "lineitem_sku", "variant_sku",
        "stock_code", "article_id", "article", "article_number", "product_code", "item_code", "item_number", "asin",
        "parent_asin", "isbn", "ean", "gtin", "product_reference", "reference", "movie_id", "book_id", "track_id",
        "song_id", "artikelnummer", "artikel_nr", "artikel_id", "artikel", "produit", "référence", "producto",
        "referencia", "codice", "product_name", "item_name", "lineitem_name",
    ),
    time=(
        "timestamp", "time", "datetime", "date", "created_at", "order_date", "ordered_at", "order_time",
        "purchase_date", "purchased_at", "invoice_date", "transaction_date", "date_created", "date_add", "event_time",
        "unixReviewTime", "paid_at", "day", "bestelldatum", "datum", "date_commande", "fecha", "data",
    ),
    order=(
        "order_id", "order_number", "order_no", "order", "order_name", "invoice", "invoice_no", "increment_id",
        "transaction_id", "receipt_id", "receipt", "basket_id", "bestellnummer", "auftragsnummer", "commande", "pedido",
    ),
    quantity=(
        "quantity", "qty", "lineitem_quantity", "item_quantity", "product_quantity", "qty_ordered", "units", "menge",
        "anzahl", "quantité", "cantidad", "quantità", "aantal",
    ),
    status=("order_status", "status", "financial_status", "state"),
    title=("title", "product_name", "item_name", "lineitem_name", "product_title", "name", "description"),
    lists=("line_items", "items", "products", "product_ids", "item_ids", "skus", "basket", "articles"),
    cancelled=("cancelled_at", "canceled_at"),
    left_out=CANCELLED,
    product=("id", "handle"),
    texts=(
        (
            "title", "name", "product_name", "item_name", "product_title", "movie_title", "text", "description",
            "bezeichnung", "artikelbezeichnung", "nom", "désignation", "nombre", "nome", "naam",
        ),
        ("category", "categories", "product_category", "product_type", "kategorie", "catégorie", "categoría"),
        ("brand", "vendor", "manufacturer", "brand_name", "marke", "hersteller", "marque", "marca", "merk"),
    ),
    drops_returns=False,
)  # fmt: skip

PRESETS: dict[str, Layout] = {
    # Orders > Export: one row a line item; the order's own fields stand on its first row alone
    "shopify": Layout(
        user=("Email", "Customer ID", "Billing Name", "Phone"),
        item=("Lineitem sku", "Lineitem name"),
        time=("Created at", "Paid at"),
        order=("Name", "Id"),
        quantity=("Lineitem quantity",),
        status=("Financial Status",),
        title=("Lineitem name",),
        cancelled=("Cancelled at",),
        left_out=("refunded", "voided", "expired"),
        product=("Variant SKU", "SKU", "Lineitem sku", "Title"),
        product_group=("Handle", "URL handle"),
        texts=(("Title",), ("Type", "Product category", "Standardized Product Type", "Custom Product Type"), ("Vendor",)),
        signs=(("Lineitem name", "Lineitem quantity"), ("Lineitem sku", "Name")),
        advice="export them under Orders > Export (plain CSV file), products under Products > Export",
    ),
    # no export of line items of its own; the forms of the usual extensions, and of Analytics > Orders
    "woocommerce": Layout(
        user=("billing_email", "customer_email", "Email (Billing)", "customer_id", "customer_user", "Customer User ID",
              "Customer"),
        item=("item_sku", "SKU", "Product SKU", "item_product_id", "product_id", "Product ID", "item_name", "Item Name"),
        time=("order_date", "Order Date", "date", "paid_date"),
        order=("order_number", "order_id", "Order Number", "Order #", "Order ID"),
        quantity=("item_quantity", "Quantity", "Quantity (- Refund)", "qty"),
        status=("status", "order_status", "Order Status"),
        title=("item_name", "Item Name", "Product Name"),
        lists=("line_items", "line_item_*", "Product(s)", "Products"),
        refunded=(("item_refunded_qty", "Quantity Refunded"),),
        left_out=("cancelled", "refunded", "failed", "trash", "draft", "checkout-draft", "auto-draft"),
        guests=("0", "guest"),
        product=("SKU", "ID", "Name"),
        texts=(("Name",), ("Categories",), ("Brands", "Brand")),
        signs=(("line_items", "order_number"), ("line_item_1",), ("Product(s)", "Items sold"),
               ("item_product_id",), ("Item Name", "Order Number")),
        advice="WooCommerce itself exports no line items with customers; use an order export extension with one row "
        "an item or a column line_items, and Products > Export for the products",
    ),
    # the order grid has no items; tables sales_order and sales_order_item joined, or an export extension
    "magento": Layout(
        user=("customer_email", "Customer Email", "customer_id"),
        item=("sku", "order_item_sku", "item_sku", "Item SKU", "product_sku", "product_id"),
        time=("created_at", "Purchase Date", "order_created_at", "purchased_on"),
        order=("increment_id", "order_increment_id", "order_id", "Order #", "ID"),
        quantity=("qty_ordered", "item_qty_ordered", "Qty Ordered", "qty"),
        status=("status", "order_status", "state"),
        title=("name", "item_name", "product_name"),
        refunded=(("qty_refunded",), ("qty_canceled",)),
        left_out=("canceled", "cancelled", "closed", "fraud"),
        product=("sku", "entity_id", "product_id"),
        texts=(("name",), ("categories", "_category"), ("manufacturer", "brand")),
        signs=(("increment_id", "sku"), ("qty_ordered", "sku")),
        advice="the order grid holds no items; export sales_order joined with sales_order_item (increment_id, "
        "customer_email, created_at, status, sku, name, qty_ordered), products under System > Data Transfer > Export",
    ),
    # the order list has no items; Advanced Parameters > Database > SQL query on orders and order_detail
    "prestashop": Layout(
        user=("id_customer", "customer_email", "email", "customer", "Client"),
        item=("product_reference", "product_id", "id_product", "reference", "product_name"),
        time=("date_add", "invoice_date", "date", "Order date"),
        order=("id_order", "order_reference", "Order ID", "Order reference"),
        quantity=("product_quantity", "quantity"),
        status=("current_state", "order_state", "state_name", "Status", "Order state", "state"),
        title=("product_name",),
        refunded=(("product_quantity_refunded", "product_quantity_return"),),
        # the ids are those of a fresh shop: canceled, refunded, payment error
        left_out=("6", "7", "8", "canceled", "cancelled", "refunded", "payment error", "annulé", "remboursé",
                  "erreur de paiement"),
        guests=("0",),
        product=("reference", "id_product", "Product ID", "ID", "Product reference"),
        texts=(("name", "Product name"), ("category", "category_name"), ("manufacturer", "manufacturer_name", "brand")),
        signs=(("id_order", "product_reference"), ("id_order", "product_id"), ("id_order", "product_name")),
        advice="the order list holds no items; export an SQL query (Advanced Parameters > Database) of id_order, "
        "id_customer, date_add, current_state from orders and product_reference, product_name, product_quantity, "
        "product_quantity_refunded from order_detail",
    ),
    # Orders > Export: one row an order with all products in one cell, or one row a product
    "bigcommerce": Layout(
        user=("Customer Email", "Customer ID", "Customer Name"),
        item=("Product SKU", "Product ID", "SKU", "Item SKU", "Product Name"),
        time=("Order Date", "Date"),
        clock=("Order Time",),
        order=("Order ID",),
        quantity=("Product Qty", "Quantity", "Qty"),
        status=("Order Status", "Status"),
        title=("Product Name",),
        lists=("Product Details", "Products"),
        refunded=(("Quantity Refunded",),),
        left_out=("cancelled", "refunded", "declined", "incomplete"),
        guests=("0",),
        product=("Product Code/SKU", "SKU", "Code", "Product ID", "ID", "Product SKU", "Name"),
        texts=(("Product Name", "Name"), ("Category", "Categories", "Category Details"), ("Brand Name", "Brand", "Brand ID")),
        signs=(("Order ID", "Product Details"), ("Order ID", "Product SKU")),
        advice="export them under Orders > Export (template Default), products under Products > Export",
    ),
}  # fmt: skip


def recognise(columns: Sequence[str]) -> str | None:
    """The shop system whose order export has these columns, or None."""
    from dataset_tools.sources import find_column  # late: the table alone is wanted for --help

    for name, layout in PRESETS.items():
        if any(all(find_column(column, columns) for column in sign) for sign in layout.signs):
            return name
    return None
