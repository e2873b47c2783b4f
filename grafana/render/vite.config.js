import react from '@vitejs/plugin-react';

export default {
  plugins: [react()],
  base: './',
  build: { outDir: 'dist', minify: false, reportCompressedSize: false, chunkSizeWarningLimit: 99999 },
  define: { 'process.env': {}, global: 'globalThis' },
};
