"""Order and product tables of shops: `layouts` names the columns, `choose` picks them, `orders` and `products` read."""
