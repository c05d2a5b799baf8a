import { Button, type ButtonProps, NavLink, type NavLinkProps } from "@mantine/core";
import { createLink } from "@tanstack/react-router";
import { type AnchorHTMLAttributes, forwardRef } from "react";

type Props = ButtonProps & Omit<AnchorHTMLAttributes<HTMLAnchorElement>, keyof ButtonProps>;

/** A button that goes somewhere: a link, with all that a link can do. */
export const LinkButton = createLink(
  forwardRef<HTMLAnchorElement, Props>(function AnchorButton(props, ref) {
    return <Button ref={ref} component="a" {...props} />;
  }),
);

type NavProps = NavLinkProps & Omit<AnchorHTMLAttributes<HTMLAnchorElement>, keyof NavLinkProps>;

/** One of a list of places. */
export const PlaceLink = createLink(
  forwardRef<HTMLAnchorElement, NavProps>(function AnchorNavLink(props, ref) {
    return <NavLink ref={ref} component="a" {...props} />;
  }),
);
